"""The peak of a piece of work, whatever other work left in the process."""

from __future__ import annotations

import pytest
import torch

from tasks import memory


def test_memory_is_that_of_a_process_of_its_own():
    kept = torch.ones(25_000_000)
    with memory.watch() as idle:
        pass
    with memory.watch() as peak:
        more = torch.ones(25_000_000)
    with memory.watch() as passing:
        passed = torch.ones(25_000_000)
        del passed
    assert kept.sum() == more.sum() > 0
    assert idle.host_bytes - memory.idle_bytes() == pytest.approx(0.0, abs=1e7)
    assert peak.host_bytes - memory.idle_bytes() == pytest.approx(1e8, rel=0.1)
    assert passing.host_bytes - memory.idle_bytes() == pytest.approx(1e8, rel=0.1)


def test_the_peak_of_a_block_holds_before_and_inside_another_block():
    with memory.watch() as outer:
        passed = torch.ones(25_000_000)
        del passed
        with memory.watch() as inner:
            kept = torch.ones(5_000_000)
    assert kept.sum() > 0
    assert outer.host_bytes - memory.idle_bytes() == pytest.approx(1e8, rel=0.1)
    assert inner.host_bytes - memory.idle_bytes() == pytest.approx(2e7, rel=0.5)
