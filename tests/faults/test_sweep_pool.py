"""A sweep over a work pool, disturbed: workers in folders of their own that share a store and a
Prefect server, whose database is Postgres.

Each time the sweep ends with the bytes of a sweep that nobody disturbed, no run stays Running, and
no process stays.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from tests.faults.sweeps import SETTINGS, checkpoints
from tests.flows.sweeps.served import WAIT_SECONDS, Served, serving, states, wait_for
from tests.flows.test_prefect import free_port
from tests.infra.postgres import Postgres, postgres
from tests.workspace import Workspace, make_workspace

pytestmark = pytest.mark.services
CELLS = ("distilled", "scores")
SECRET, USER = "p-a-s-s", "us-e-r:w-o-r-d"
GONE_SECONDS = 60


@dataclass(frozen=True)
class Lab:
    """A parent and two workers `a` and `b` in folders of their own, and what they share. Later
    parents begin in the folder of `a`, where they find what cells share.

    Attributes:
        served: the server, with the parent's folder as its workspace.
        made: what an undisturbed sweep makes.
        held: the processes of cells that stand still, by their workers.
    """

    served: Served
    database: Postgres
    store: Path
    checkouts: dict[str, Workspace]
    made: dict[str, str]
    held: dict[str, psutil.Process] = field(default_factory=dict)

    def start_worker(self, name: str) -> None:
        self.served.start_worker(name, at=self.checkouts[name].folder)

    def forget_cells(self) -> None:
        """Remove what cells made, everywhere."""
        for checkout in (self.served.workspace, *self.checkouts.values()):
            for name in (*CELLS, ".work"):
                shutil.rmtree(checkout.folder / "data" / name, ignore_errors=True)
        for name in ("distill", "evaluate"):
            shutil.rmtree(self.store / name, ignore_errors=True)

    def begin(self, name: str) -> subprocess.Popen[bytes]:
        """Start a sweep without its cells, and return when each worker has one that stands still.

        Small cells would be done before both are under way, so each is held at a checkpoint.
        """
        self.release()
        self.forget_cells()
        sweep = self.sweep(name)
        wait_for(self.hold, self.served.log)
        return sweep

    def hold(self) -> bool:
        """Stop the cells that have a checkpoint; return whether all workers have one."""
        for name, checkout in self.checkouts.items():
            if name not in self.held and checkpoints(checkout):
                cell = self.held[name] = self.cell_of(name)
                cell.suspend()
                # A signal that comes before would be taken at once
                wait_for(lambda cell=cell: cell.status() == psutil.STATUS_STOPPED, cell.status)
        return self.held.keys() == self.checkouts.keys()

    def go_on(self, *told: str) -> None:
        """Let the cells go on, once those of the workers `told` have been told to end."""
        for name in told:
            wait_for(lambda cell=self.held[name]: is_told_to_end(cell), self.served.log)
        self.release()

    def release(self) -> None:
        """Let all cells go on, also those of a scenario that failed."""
        for cell in self.held.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                cell.resume()
        self.held.clear()

    def cell_of(self, worker: str) -> psutil.Process:
        """Return the process of the cell that a worker has begun."""
        below = psutil.Process(self.served.workers[worker].pid).children(recursive=True)
        (cell,) = (process for process in below if "prefect.engine" in process.cmdline())
        return cell

    def sweep(self, name: str) -> subprocess.Popen[bytes]:
        """Start a parent in the folder of `a`."""
        return self.served.sweep(name, at=self.checkouts["a"].folder)

    def cells(self, name: str) -> list[FlowRun]:
        """Return the runs of the cells of a sweep."""
        return [run for run in self.served.all_runs(name) if "kind:cell" in run.tags]

    def check(self, sweep: subprocess.Popen[bytes]) -> None:
        """Assert that a sweep ends, with the bytes that it has to have and nothing under way."""
        assert sweep.wait(WAIT_SECONDS) == 0, self.served.log()
        self.check_bytes()
        wait_for(lambda: not self.served.under_way(), self.served.under_way)
        wait_for(lambda: not self.units(), self.units)

    def check_bytes(self) -> None:
        found: dict[str, str] = {}
        for checkout in self.checkouts.values():
            digests = checkout.digests()
            assert digests.items() <= self.made.items()
            found |= digests
        assert found == self.made

    def units(self) -> list[psutil.Process]:
        """Return the processes that workers have started."""
        found: list[psutil.Process] = []
        for worker in self.served.workers.values():
            if worker.poll() is None:
                found += psutil.Process(worker.pid).children(recursive=True)
        return found


def is_told_to_end(process: psutil.Process) -> bool:
    """Whether SIGTERM waits for a process that stands still, or the process is gone already."""
    if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = re.search(r"^ShdPnd:\s*([0-9a-f]+)$", status, flags=re.MULTILINE)
    assert pending
    return bool(int(pending[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture(scope="module")
def lab(made, tmp_path_factory) -> Iterator[Lab]:
    place = tmp_path_factory.mktemp("pool")
    store = place / "store"
    store.mkdir()
    own = (*SETTINGS, f"store={store.as_uri()}")
    folders = {"parent": "parent/copy", "a": "a/checkout", "b": "b/of/somebody else"}
    checkouts = {name: make_workspace(place / path, own) for name, path in folders.items()}
    with postgres(free_port(), place / "postgres.log", SECRET) as database:
        env = {
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(database.port),
            "PREFECT_SERVER_DATABASE_USER": "postgres",
            "PREFECT_SERVER_DATABASE_PASSWORD": SECRET,
            "PREFECT_SERVER_DATABASE_NAME": "prefect",
        }
        with serving(checkouts.pop("parent"), USER, **env) as served:
            for name in ("sweep-unit/cpu", "distill-sweep/cpu"):
                served.deploy(name, "{{ $PWD }}")
            found = Lab(served, database, store, checkouts, made.digests())
            for name in checkouts:
                found.start_worker(name)
            yield found
            found.release()


def test_workers_share_a_store_and_no_folder(lab):
    served = lab.served
    lab.check(served.sweep("first"))
    assert states(served.runs("first")) == ["Completed"] * 7  # 5 that cells share, and 2 cells
    assert served.workspace.digests() == {}


def test_postgres_is_restarted_meanwhile(lab):
    sweep = lab.begin("postgres")
    lab.database.end()
    lab.go_on()
    time.sleep(5)
    lab.database.start()
    lab.check(sweep)
    assert states(lab.cells("postgres")) == ["Completed"] * 2


def test_a_cell_that_is_told_to_end_is_tried_once_more(lab):
    sweep = lab.begin("cell")
    lab.held["a"].terminate()
    lab.go_on("a")
    lab.check(sweep)
    assert "is tried once more" in lab.served.log()


def test_a_worker_that_is_told_to_end_ends_its_cell_which_is_tried_once_more(lab):
    sweep = lab.begin("worker")
    worker = lab.served.workers["b"]
    of_worker = psutil.Process(worker.pid).children(recursive=True)
    worker.terminate()
    lab.go_on("b")
    lab.start_worker("b")  # another in its place, as a cluster would start one
    wait_for(lambda: not [one for one in of_worker if one.is_running()], of_worker.copy)
    worker.wait(GONE_SECONDS)
    lab.check(sweep)
    assert len(lab.cells("worker")) == 3


def test_a_parent_is_told_to_end_and_cancels_what_it_started(lab):
    sweep = lab.begin("parent")
    sweep.terminate()
    lab.go_on("a", "b")
    assert sweep.wait(GONE_SECONDS) == -signal.SIGTERM, lab.served.log()
    wait_for(lambda: states(lab.cells("parent")) == ["Cancelled"] * 2, lab.served.log)
    wait_for(lambda: not lab.units() and not lab.served.under_way(), lab.units)
    lab.check(lab.sweep("parent"))


def test_a_cell_is_cancelled_alone(lab):
    sweep = lab.begin("cancelled")
    cancelled = lab.cells("cancelled")[0]
    lab.served.client.set_flow_run_state(cancelled.id, Cancelling())
    wait_for(lambda: any(map(is_told_to_end, lab.held.values())), lab.served.log)
    lab.go_on()
    assert sweep.wait(WAIT_SECONDS) == 2, lab.served.log()
    assert states(lab.cells("cancelled")) == ["Cancelled", "Completed"]
    assert "1 of 2 cells failed" in lab.served.log() and "is Cancelled" in lab.served.log()
    lab.check(lab.sweep("cancelled"))


def test_a_deployed_parent_is_cancelled_with_all_that_it_started(lab):
    served = lab.served
    lab.forget_cells()
    served.start_worker("parents", "local", at=lab.checkouts["a"].folder)
    deployment = served.client.read_deployment_by_name("distill-sweep/cpu").id
    words = {"name": "deployed", "workers": 2}
    parent = served.client.create_flow_run_from_deployment(deployment, parameters=words)
    wait_for(lab.hold, served.log)
    served.client.set_flow_run_state(parent.id, Cancelling())
    since = time.monotonic()
    lab.go_on("a", "b")
    wait_for(lambda: not lab.units() and not served.under_way(), served.under_way)
    assert time.monotonic() - since < GONE_SECONDS
    assert states([served.client.read_flow_run(parent.id)]) == ["Cancelled"]
    assert states(lab.cells("deployed")) == ["Cancelled"] * 2
    lab.check(lab.sweep("deployed"))
