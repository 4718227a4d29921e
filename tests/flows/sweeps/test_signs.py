"""A run is silent when its beat stands still by the clock of who watches."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Pending, Running, Scheduled

from flows.sweeps import signs
from flows.sweeps.units import Outcome

ID = uuid4()


def run(state, **labels) -> FlowRun:
    return FlowRun(id=ID, flow_id=ID, state=state, labels=labels)


def beat(number: int) -> FlowRun:
    return run(Running(), **{signs.BEAT: number})


@pytest.fixture
def watch(monkeypatch) -> signs.Watch:
    """One that waits for 0.1 s for a beat, and for 0.3 s for the first."""
    monkeypatch.setattr(signs, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(signs, "BEGIN_SECONDS", 0.3)
    return signs.Watch()


def test_a_run_is_silent_when_its_beat_stands_still(watch):
    for number in range(3):
        assert not watch.is_silent(beat(number))
        time.sleep(0.06)
        assert not watch.is_silent(beat(number))
    time.sleep(0.06)
    assert watch.is_silent(beat(2))
    assert not watch.is_silent(beat(3))


def test_a_run_that_a_worker_took_has_longer_to_begin(watch):
    assert not watch.is_silent(run(Pending()))
    time.sleep(0.15)
    assert not watch.is_silent(run(Pending()))
    time.sleep(0.2)
    assert watch.is_silent(run(Pending()))


def test_a_run_that_waits_for_a_worker_is_never_silent(watch):
    assert not watch.is_silent(run(Scheduled()))
    time.sleep(0.35)
    assert not watch.is_silent(run(Scheduled()))


def test_nothing_is_silent_right_after_the_server_was_away(watch):
    watch.is_silent(beat(1))
    time.sleep(0.15)
    watch.begin_again()
    assert not watch.is_silent(beat(1))


def test_an_answer_is_a_label(watch):
    assert signs.told(beat(1)) is None
    assert signs.told(run(Running(), **{signs.ANSWER: '{"reason": "no"}'})) == Outcome("no")
