"""A sweep over a work pool: a real server, two process workers, and units as flow runs of their
own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest
from prefect.states import Cancelling

from flows.services.session import GONE_SECONDS
from tests.flows.sweeps.served import WAIT_SECONDS, Served, serving, states, wait_for
from tests.workspace import ROOT, TINY, make_workspace

pytestmark = pytest.mark.services
CELLS = "sweep.grid={distill.matching.lr_img: [0.01, 0.02]}"
LONGER = ("distill.matching.iterations=4000", "distill.matching.checkpoint_every=2")


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    workspace = make_workspace(
        tmp_path_factory.mktemp("remote") / "copy", (*TINY, "methods.coresets=[random]", CELLS)
    )
    workspace.flow("train_experts")
    with serving(workspace) as found:
        found.deploy("sweep-unit/cpu")
        for name in ("cpu-0", "cpu-1"):
            found.start_worker(name)
        yield found


@pytest.fixture(scope="module")
def made(served) -> dict[str, str]:
    """What an undisturbed sweep has made."""
    assert served.sweep("first").wait(WAIT_SECONDS) == 0, served.log()
    return served.workspace.digests()


def test_cells_are_runs_on_the_pool_found_by_their_tags_and_made_once(served, made):
    runs = served.runs("first")
    assert states(runs) == ["Completed", "Completed"]
    assert all(name.startswith("first: bi_trajectory-4 lr_img=") for name in runs)
    assert {"kind:cell", "sweep:toy/first"} < set(next(iter(runs.values())).tags)
    versions = [one for one in served.client.read_artifacts() if one.description == "Sweep first"]
    artifact = max(versions, key=lambda one: one.created)
    assert "| 1 | bi_trajectory-4" in artifact.data and "The best cell again" in artifact.data
    # All is there: the second parent submits nothing
    assert served.sweep("second").wait(WAIT_SECONDS) == 0 and served.runs("second") == {}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_outlives_its_server_and_goes_on_with_the_next(served, made, number):
    for name in ("distilled", "scores"):
        shutil.rmtree(served.workspace.folder / "data" / name)
    name = f"server-{number}"
    sweep = served.sweep(name)
    wait_for(lambda: states(served.runs(name)) == ["Running"] * 2, served.log)
    served.server.end(number)
    # Cells end meanwhile, and nobody takes their answers
    wait_for(lambda: served.workspace.digests() == made, served.log)
    time.sleep(GONE_SECONDS)
    served.server.start()
    assert sweep.wait(WAIT_SECONDS) == 0, served.log()
    wait_for(lambda: states(served.runs(name)) == ["Completed"] * 2, served.log)
    wait_for(lambda: not served.under_way(), served.log)
    assert served.workspace.digests() == made
    assert "of 2: bi_trajectory-4" in served.log()


def begun(served: Served, sweep: str) -> subprocess.Popen[bytes]:
    """Start a sweep of two cells that last, and return when each has come some way."""
    work = served.workspace.folder / "data/.work"
    shutil.rmtree(work, ignore_errors=True)
    parent = again(served, sweep)
    wait_for(lambda: len(list(work.glob("*/.checkpoint.safetensors"))) == 2, served.log)
    return parent


def again(served: Served, sweep: str) -> subprocess.Popen[bytes]:
    """Start a parent of this sweep."""
    return served.sweep(sweep, *(word for setting in LONGER for word in ("--set", setting)))


def interrupt(parent: subprocess.Popen[bytes]) -> None:
    """End a parent as Ctrl-C does."""
    os.kill(parent.pid, signal.SIGINT)
    assert parent.wait(60) == 130


def test_a_parent_that_is_killed_does_not_stay_running_and_the_next_goes_on_with_its_cells(served):
    first = begun(served, "killed")
    cells = {run.id for run in served.all_runs("killed")}
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = again(served, "killed")

    def parents() -> list[str]:
        found = [run.state for run in served.client.read_flow_runs() if not run.tags]
        names = [state.name for state in found if state]
        return sorted(name for name in names if name in ("Running", "Crashed"))

    wait_for(lambda: parents() == ["Crashed", "Running"], parents)
    interrupt(second)
    wait_for(lambda: states(served.all_runs("killed")) == ["Cancelled"] * 2, served.log)
    assert {run.id for run in served.all_runs("killed")} == cells


def test_a_cell_that_is_killed_with_its_worker_is_tried_once_more(served):
    parent = begun(served, "lost")
    # With its worker: nobody else could say that the cell ended
    worker = psutil.Process(served.workers["cpu-0"].pid)
    cell = worker.children()
    for process in (worker, *cell):
        process.kill()
    served.workers["cpu-0"].wait()
    # The lost cell is tried once more, and waits: the other worker has a cell
    wait_for(lambda: len(served.all_runs("lost")) == 3, served.log)
    assert states(served.all_runs("lost"))[:2] == ["Crashed", "Running"]
    interrupt(parent)
    wait_for(
        lambda: states(served.all_runs("lost")) == ["Cancelled", "Cancelled", "Crashed"],
        lambda: states(served.all_runs("lost")),
    )
    other = psutil.Process(served.workers["cpu-1"].pid)
    wait_for(lambda: not other.children(), other.children)


def submit(served: Served, sweep: str, *settings: str) -> None:
    """Submit a cell without a parent."""
    request = {
        "kind": "cell",
        "settings": settings,
        "sweep": {"profile": "toy", "sweep": sweep, "cell": "a"},
        "swept": {},
        "below": None,
        "forced_at": None,
        "accept_code": False,
    }
    words = {"request": request}
    deployment = served.client.read_deployment_by_name("sweep-unit/cpu").id
    tags = [f"sweep:toy/{sweep}"]
    served.client.create_flow_run_from_deployment(deployment, parameters=words, tags=tags)


def alone(served: Served, sweep: str) -> tuple[psutil.Process, psutil.Process]:
    """Submit a cell that lasts, and return the worker that takes it and the process of the cell."""
    submit(served, sweep, *LONGER, "variant={distill.matching.lr_img: 0.5}")
    wait_for(lambda: states(served.runs(sweep)) == ["Running"], served.log)
    living = [worker.pid for worker in served.workers.values() if worker.poll() is None]
    (cell,) = (child for pid in living for child in psutil.Process(pid).children())
    return cell.parent(), cell


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, though its worker may not have seen that."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_unit_ends_whose_worker_does_not_hear_that_it_is_cancelled(served, is_deleted):
    name = f"unheard-{is_deleted}"
    worker, cell = alone(served, name)
    (run,) = served.all_runs(name)
    worker.suspend()
    if is_deleted:
        served.client.delete_flow_run(run.id)
    else:
        served.client.set_flow_run_state(run.id, Cancelling())
    wait_for(lambda: has_ended(cell), cell.cmdline)
    worker.resume()
    wait_for(lambda: not worker.children(), worker.children)
    assert states(served.all_runs(name)) == ([] if is_deleted else ["Cancelled"])


def test_the_process_of_a_unit_ends_with_its_worker(served):
    worker, cell = alone(served, "alone")
    worker.kill()
    wait_for(lambda: not cell.is_running(), cell.cmdline)


def test_the_worker_of_an_allocation_of_slurm_ends_by_its_signal(served):
    for other in served.workers.values():
        other.kill()
        other.wait()
    worker = served.start("bash", str(ROOT / "infra/slurm/worker.sbatch"), "cpu")
    served.workers["slurm"] = worker
    submit(served, "slurm", "variant={distill.matching.lr_img: 0.7}")
    wait_for(lambda: states(served.runs("slurm")) == ["Running"], served.log)
    worker.send_signal(signal.SIGTERM)  # as Slurm does before the allocation ends
    submit(served, "late", "variant={distill.matching.lr_img: 0.8}")
    assert worker.wait(WAIT_SECONDS) == 0
    # Its process ends with the worker; a parent would mark the run Crashed
    assert states(served.runs("slurm")) == ["Running"]
    assert states(served.runs("late")) in (["Scheduled"], ["Late"])
