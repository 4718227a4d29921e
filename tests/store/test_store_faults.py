"""A store that fails, hangs, is full or gone, and kill -9 while an artifact travels: the run goes
on, and nothing half-written is ever read.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

import pytest

from tasks.store.artifacts import verify
from tasks.store.patience import Pulse, Unreachable, patiently
from tests.store.checkouts import CONTENT, FOLDER, Checkout, Faulty, build, never

URL = "faulty://lab/artifacts"


@pytest.fixture
def faults(monkeypatch):
    """Returns what sets the faults of an empty store."""
    monkeypatch.setattr(Faulty, "store", {})
    monkeypatch.setattr(Faulty, "pseudo_dirs", [""])

    def arrange(before):
        monkeypatch.setattr(Faulty, "before", staticmethod(before))

    return arrange


def failing(times: int, error: Exception):
    """What fails the first `times`."""
    left = [times]

    def before() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise error

    return before


def warnings(caplog) -> int:
    return sum(record.levelno >= logging.WARNING for record in caplog.records)


def test_errors_that_pass_are_tried_again(tmp_path, faults, caplog):
    faults(failing(2, OSError("503 slow down")))
    Checkout(tmp_path / "first", URL).obtain(build)
    faults(failing(2, ConnectionResetError("reset")))
    second = Checkout(tmp_path / "second", URL)
    second.obtain(never)
    assert second.files() == CONTENT and warnings(caplog) == 0


@pytest.mark.parametrize(
    "error", [PermissionError("403"), OSError(28, "No space left"), ValueError("rubbish")]
)
def test_a_store_that_refuses_stops_nothing_and_is_told_twice(tmp_path, faults, caplog, error):
    """Once when it happens and once at the end, however many artifacts it is asked for."""
    faults(failing(10**6, error))
    first = Checkout(tmp_path / "first", URL)
    started = time.monotonic()
    assert not first.obtain(build).is_cached
    assert first.files() == CONTENT and warnings(caplog) == 2
    assert time.monotonic() - started < 10
    faults(lambda: None)
    first.obtain(never)  # whoever comes next pushes it
    second = Checkout(tmp_path / "second", URL)
    second.obtain(never)
    assert second.files() == CONTENT


def test_a_store_that_hangs_is_left_alone(tmp_path, faults, caplog):
    go_on = threading.Event()
    faults(lambda: go_on.wait(60))
    first = Checkout(tmp_path / "first", URL, seconds=0.4)
    started = time.monotonic()
    assert not first.obtain(build).is_cached
    assert time.monotonic() - started < 10
    assert first.files() == CONTENT and warnings(caplog) == 2
    go_on.set()


def test_a_transfer_that_is_left_behind_ends_when_it_wakes():
    woken, ended = threading.Event(), threading.Event()

    def work(pulse: Pulse) -> None:
        try:
            woken.wait(60)
            pulse.beat(1)
        finally:
            ended.set()

    with pytest.raises(Unreachable):
        patiently(work, answers=(), seconds=0.1)
    woken.set()
    assert ended.wait(10)


def test_a_slow_transfer_is_waited_for_and_reported():
    told = []

    def work(pulse: Pulse) -> str:
        pulse.total = 5
        for _ in range(5):
            time.sleep(0.2)
            pulse.beat(1)
        return "done"

    assert patiently(work, answers=(), seconds=0.5, report=lambda *how: told.append(how)) == "done"
    assert told[-1] == (5, 5) and told[0][0] < 5


def test_a_share_that_is_not_mounted_is_no_empty_store(tmp_path):
    first = Checkout(tmp_path / "first", tmp_path / "share")
    first.obtain(build)
    assert first.files() == CONTENT and not (tmp_path / "share").exists()


def test_no_message_holds_what_is_secret(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"ftp://karla:geheim7@127.0.0.1:{port}/store?sig=5ec2e7"
    Checkout(tmp_path / "first", url).obtain(build)
    error = OSError("bad signature of wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setattr(Faulty, "before", staticmethod(failing(10**6, error)))
    Checkout(tmp_path / "second", URL).obtain(build)
    assert warnings(caplog) == 4
    manifest = (tmp_path / "first" / FOLDER / "manifest.json").read_text()
    for secret in ("karla", "geheim7", "5ec2e7", "wJalr", "K7MDENG"):
        assert secret not in caplog.text + manifest


def killed_at(moment: int, checkout: Checkout, make) -> int:
    """Return the exit code of a process that ends, as by kill -9, when the `moment`-th piece of a
    transfer has come or gone, or a file is about to be put into its place.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [moment]

    def ending(call):
        def counted(*args, **how):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return call(*args, **how)

        return counted

    Pulse.beat = ending(Pulse.beat)
    for name in ("replace", "mkdir", "unlink"):
        setattr(os, name, ending(getattr(os, name)))
    try:
        checkout.obtain(make)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("is_pushing", [True, False])
def test_kill_9_at_every_moment_of_a_transfer_leaves_nothing_half_written(tmp_path, is_pushing):
    moment = code = 0
    while code != 0 or moment == 0:
        place = tmp_path / f"{moment}"
        (place / "store").mkdir(parents=True)
        first = Checkout(place / "first", place / "store")
        second = Checkout(place / "second", place / "store")
        if is_pushing:
            code = killed_at(moment, first, build)
        else:
            first.obtain(build)
            code = killed_at(moment, second, never)
        assert code in (0, 9)
        folder = second.folder / FOLDER
        manifest = folder / "manifest.json"
        assert not manifest.exists() or verify(folder)
        second.obtain(build)
        assert second.files() == CONTENT and second.left() == []
        third = Checkout(place / "third", place / "store")
        third.obtain(never)
        assert third.files() == CONTENT
        moment += 1
    assert moment > 8


def test_a_pull_goes_on_with_the_files_that_came(tmp_path, faults):
    """The store fails after some files; the next run does not read those again."""
    faults(lambda: None)
    content = {f"{number}.bin": bytes([number]) * 1000 for number in range(6)}
    Checkout(tmp_path / "first", URL).obtain(lambda work: build(work, content))
    second = Checkout(tmp_path / "second", URL)
    calls = [0]

    def after(number: int):
        def before() -> None:
            calls[0] += 1
            if calls[0] > number:
                raise OSError("gone")

        return before

    faults(after(6))
    with pytest.raises(AssertionError):
        second.obtain(never)
    assert 0 < len(second.left()) < 6
    calls[0] = 0
    faults(after(10**6))
    second.obtain(never)
    assert second.files() == content and second.left() == []
    assert calls[0] < 6 + 2


def test_a_library_that_is_not_installed_is_one_message(tmp_path):
    first = Checkout(tmp_path / "first", "oci://bucket/store")
    with pytest.raises(ValueError, match="not installed"):
        first.obtain(build)
    assert not (first.folder / FOLDER).exists()
