"""Signals to the parent of a sweep and to its workers: no process is left, the same command goes
on, and the bytes are those of a sweep that nobody disturbed.
"""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest

from tests.faults.sweeps import (
    END_SECONDS,
    GONE_SECONDS,
    checkpoints,
    end,
    processes,
    start,
    wait_for,
    wait_for_cells,
)

pytestmark = pytest.mark.services
NAMED = ("--name", "killed", "--workers", "2")
ENDS = (signal.SIGKILL, signal.SIGTERM)


def busy(sweep: subprocess.Popen[str]) -> psutil.Process:
    """Return the worker that makes a cell: of two the one that has computed longer."""
    return max(psutil.Process(sweep.pid).children(), key=lambda process: process.cpu_times().user)


@pytest.mark.parametrize("number", ENDS)
def test_a_sweep_whose_parent_ends_leaves_no_process_and_goes_on(made, shared_alone, number):
    sweep = start(shared_alone, *NAMED)
    wait_for_cells(shared_alone, sweep)
    os.kill(sweep.pid, number)
    assert sweep.wait(GONE_SECONDS) == -number
    wait_for(lambda: not processes(shared_alone), "a worker outlives its parent")
    assert checkpoints(shared_alone)
    assert "is gone; `sweep resume`" in shared_alone.flow("sweep", "status", "killed").stdout
    done = shared_alone.flow("sweep", "resume", "killed", seconds=END_SECONDS)
    assert "2 of 2: bi_trajectory-4" in done.stderr
    assert shared_alone.digests() == made.digests()


@pytest.mark.parametrize("number", ENDS)
def test_a_cell_whose_worker_ends_is_made_at_its_second_try(made, shared_alone, number):
    sweep = start(shared_alone, *NAMED)
    wait_for_cells(shared_alone, sweep)
    busy(sweep).send_signal(number)
    output = end(sweep)
    assert f"is tried once more: its process ended by signal {number:d}" in output
    board = (shared_alone.folder / "reports/toy/sweeps/killed.md").read_text()
    assert f"of the first try its process ended by signal {number:d}" in board
    assert not processes(shared_alone) and shared_alone.digests() == made.digests()


def test_a_cell_whose_process_ends_twice_fails_alone(made, shared_alone):
    sweep = start(shared_alone, "--name", "killed")
    wait_for_cells(shared_alone, sweep)
    (first,) = psutil.Process(sweep.pid).children()
    first.kill()
    wait_for(lambda: psutil.Process(sweep.pid).children() not in ([], [first]), "no second try")
    busy(sweep).kill()
    output = end(sweep, 2)
    assert "by signal 9 (SIGKILL)" in output
    assert "error: 1 of 2 cells failed" in output and "best: bi_trajectory-4" in output
    assert not processes(shared_alone)
    done = shared_alone.flow("distill_sweep", *NAMED, seconds=END_SECONDS)
    assert "made, " in done.stdout and shared_alone.digests() == made.digests()


def test_a_sweep_is_cancelled_by_its_name_and_runs_once_at_a_time(shared_alone):
    sweep = start(shared_alone, *NAMED)
    record = shared_alone.folder / "data/sweeps/toy/killed/sweep.json"
    wait_for(record.exists, "no sweep began")
    refused = shared_alone.flow("distill_sweep", *NAMED, check=False)
    assert refused.returncode == 2 and f"runs already, as process {sweep.pid}" in refused.stderr
    assert "killed: cancelled" in shared_alone.flow("sweep", "cancel", "killed").stdout
    assert sweep.wait(30) == 130
    assert not processes(shared_alone)
    assert "killed: interrupted" in shared_alone.flow("sweep", "status").stdout
    assert "nothing to cancel" in shared_alone.flow("sweep", "cancel", "killed").stdout
