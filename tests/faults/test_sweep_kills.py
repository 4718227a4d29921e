"""Signals to the parent of a sweep and to its workers: no process is left, the same command goes
on, and the bytes are those of a sweep that nobody disturbed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.workspace import TINY, Workspace, environment, make_workspace

pytestmark = pytest.mark.services
COMMAND = ("python", "-m", "flows.cli", "distill_sweep")
NAMED = ("--name", "killed", "--workers", "2")
GRID = "sweep.grid={distill.matching.lr_img: [0.01, 0.02]}"
LONGER = ("distill.matching.iterations=12", "distill.matching.checkpoint_every=2")
SETTINGS = (*TINY, *LONGER, "methods.coresets=[random]", GRID)
GONE_SECONDS = 60
ENDS = (signal.SIGKILL, signal.SIGTERM)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which the sweep has run, undisturbed, in one process."""
    folder = tmp_path_factory.mktemp("sweep") / "made"
    workspace = make_workspace(folder, SETTINGS)
    workspace.flow("distill_sweep", seconds=280)
    return workspace


@pytest.fixture
def shared_alone(made, tmp_path) -> Workspace:
    """A copy that has what cells share, and none of the cells."""
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    for name in ("data/distilled", "data/scores", "data/sweeps", ".mlflow"):
        shutil.rmtree(folder / name)
    return Workspace(folder)


def processes(workspace: Workspace) -> list[psutil.Process]:
    """Return the processes that run in a workspace."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(workspace.folder):
            found.append(process)
    return found


def wait_for(is_so, what: str, seconds: float = GONE_SECONDS) -> None:
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def checkpoints(workspace: Workspace) -> list[Path]:
    return list(workspace.folder.glob("data/.work/*/.checkpoint.safetensors"))


def start(workspace: Workspace, *options: str, **env: str) -> subprocess.Popen[str]:
    """Start a sweep."""
    return subprocess.Popen(
        (*COMMAND, *options),
        cwd=workspace.folder,
        env={**environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_cells(workspace: Workspace, sweep: subprocess.Popen[str]) -> None:
    """Wait until a cell is under way."""
    wait_for(lambda: checkpoints(workspace) or sweep.poll() is not None, "no cell began", 300)
    assert sweep.poll() is None


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
    done = shared_alone.flow("sweep", "resume", "killed", seconds=200)
    assert "2 of 2: bi_trajectory-4" in done.stderr
    assert shared_alone.digests() == made.digests()


@pytest.mark.parametrize("number", ENDS)
def test_a_cell_whose_worker_ends_is_made_at_its_second_try(made, shared_alone, number):
    sweep = start(shared_alone, *NAMED)
    wait_for_cells(shared_alone, sweep)
    busy(sweep).send_signal(number)
    output = sweep.communicate(timeout=400)[0]
    assert sweep.returncode == 0, output
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
    output = sweep.communicate(timeout=400)[0]
    assert sweep.returncode == 2 and "by signal 9 (SIGKILL)" in output
    assert "error: 1 of 2 cells failed" in output and "best: bi_trajectory-4" in output
    assert not processes(shared_alone)
    done = shared_alone.flow("distill_sweep", *NAMED, seconds=200)
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
