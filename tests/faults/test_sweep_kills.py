"""kill -9 of the parent of a sweep and of one of its workers: no process is left, the same command
goes on, and the bytes are those of a sweep that nobody killed.
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
COMMAND = ("python", "-m", "flows.cli", "distill_sweep", "--name", "killed", "--workers", "2")
GRID = "sweep.grid={distill.matching.lr_img: [0.01, 0.02]}"
LONGER = ("distill.matching.iterations=12", "distill.matching.checkpoint_every=2")
GONE_SECONDS = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which the sweep has run, undisturbed, in one process."""
    folder = tmp_path_factory.mktemp("sweep") / "made"
    workspace = make_workspace(folder, (*TINY, *LONGER, "methods.coresets=[random]"))
    workspace.set(GRID)
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


def wait_for(is_so, what: str) -> None:
    limit = time.monotonic() + GONE_SECONDS
    while not is_so():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def checkpoints(workspace: Workspace) -> list[Path]:
    return list(workspace.folder.glob("data/.work/*/.checkpoint.safetensors"))


def test_a_sweep_whose_parent_is_killed_leaves_no_process_and_goes_on(made, shared_alone):
    assert shared_alone.kill_when(lambda: bool(checkpoints(shared_alone)), *COMMAND)
    wait_for(lambda: not processes(shared_alone), "a worker outlives its parent")
    assert checkpoints(shared_alone)
    assert "is gone; `sweep resume`" in shared_alone.flow("sweep", "status", "killed").stdout
    done = shared_alone.flow("sweep", "resume", "killed", seconds=200)
    assert "2 of 2: bi_trajectory-4" in done.stderr
    assert shared_alone.digests() == made.digests()


def test_a_worker_that_is_killed_fails_its_cell_alone(made, shared_alone):
    sweep = subprocess.Popen(
        COMMAND,
        cwd=shared_alone.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: checkpoints(shared_alone) or sweep.poll() is not None, "no cell began")
    workers = psutil.Process(sweep.pid).children()
    # Of both workers the one that has computed longer makes a cell
    busy = max(workers, key=lambda process: process.cpu_times().user)
    os.kill(busy.pid, signal.SIGKILL)
    output = sweep.communicate(timeout=200)[0]
    assert sweep.returncode == 2 and "by signal 9 (SIGKILL)" in output
    assert "error: 1 of 2 cells failed" in output and "best: bi_trajectory-4" in output
    assert not processes(shared_alone)
    done = shared_alone.flow("distill_sweep", *COMMAND[4:], seconds=200)
    assert "made, " in done.stdout and shared_alone.digests() == made.digests()


def test_a_sweep_is_cancelled_by_its_name_and_runs_once_at_a_time(shared_alone):
    sweep = subprocess.Popen(
        COMMAND,
        cwd=shared_alone.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    record = shared_alone.folder / "data/sweeps/toy/killed/sweep.json"
    wait_for(record.exists, "no sweep began")
    refused = shared_alone.flow("distill_sweep", *COMMAND[4:], check=False)
    assert refused.returncode == 2 and f"runs already, as process {sweep.pid}" in refused.stderr
    assert "killed: cancelled" in shared_alone.flow("sweep", "cancel", "killed").stdout
    assert sweep.wait(30) == 130
    assert not processes(shared_alone)
    assert "killed: interrupted" in shared_alone.flow("sweep", "status").stdout
    assert "nothing to cancel" in shared_alone.flow("sweep", "cancel", "killed").stdout
