"""A sweep over a work pool: a real server, two process workers, and units as flow runs of their
own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from flows.services import standing
from tests.flows.test_prefect import create_pools, free_port, prefect_client
from tests.workspace import ROOT, TINY, Workspace, environment, make_workspace

pytestmark = pytest.mark.services
CELLS = "sweep.grid={distill.matching.lr_img: [0.01, 0.02]}"
LONGER = ("distill.matching.iterations=4000", "distill.matching.checkpoint_every=2")
WAIT_SECONDS = 150


@dataclass(frozen=True)
class Served:
    """A workspace with a server, and workers of the pool `cpu` by name."""

    workspace: Workspace
    api: dict[str, str]
    client: SyncPrefectClient
    workers: dict[str, subprocess.Popen[bytes]]

    def start_worker(self, name: str, pool: str = "cpu") -> None:
        command = ("prefect", "worker", "start", "--pool", pool, "--limit", "1", "--name", name)
        self.workers[name] = self.start(*command)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.workspace.folder.parent / f"{Path(command[1]).name}.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=self.workspace.folder,
                env={**environment(), **self.api},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def sweep(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        words = ("--pool", "cpu", "--workers", "2", "--name", name, *options)
        return self.start("python", "-m", "flows.distill_sweep", *words)

    def runs(self, sweep: str) -> dict[str, FlowRun]:
        """Return the runs of the cells of a sweep by their names; each cell has one."""
        found = [run for run in self.client.read_flow_runs() if f"sweep:toy/{sweep}" in run.tags]
        named = {run.name: run for run in found}
        assert len(named) == len(found)
        return named

    def log(self) -> str:
        return (self.workspace.folder.parent / "-m.log").read_text()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    workspace = make_workspace(
        tmp_path_factory.mktemp("remote") / "copy", (*TINY, "methods.coresets=[random]", CELLS)
    )
    workspace.flow("train_experts")
    before = Path.cwd()
    os.chdir(workspace.folder)
    port = free_port()
    api = {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(workspace.folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    kept = dict(os.environ)
    try:
        with standing.prefect(port) as server, prefect_client(api) as client:
            server.wait()
            create_pools(api)
            deploy = ("prefect", "--no-prompt", "deploy", "--name", "sweep-unit/cpu")
            workspace.run(*deploy, PWD=str(workspace.folder), **api)
            made = Served(workspace, api, client, {})
            for name in ("cpu-0", "cpu-1"):
                made.start_worker(name)
            try:
                yield made
            finally:
                for worker in made.workers.values():
                    worker.send_signal(signal.SIGINT)
                for worker in made.workers.values():
                    worker.wait(60)
    finally:
        os.environ.clear()
        os.environ.update(kept)
        os.chdir(before)


def wait_for(is_so: Callable[[], object], what: Callable[[], object]) -> None:
    limit = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < limit, what()
        time.sleep(0.2)


def states(runs: dict[str, FlowRun]) -> list[str]:
    return sorted(run.state.name for run in runs.values() if run.state)


def test_cells_are_runs_on_the_pool_found_by_their_tags_and_made_once(served):
    sweep = served.sweep("first")
    assert sweep.wait(WAIT_SECONDS) == 0, served.log()
    runs = served.runs("first")
    assert states(runs) == ["Completed", "Completed"]
    assert all(name.startswith("first: bi_trajectory-4 distill.") for name in runs)
    assert {"kind:cell", "sweep:toy/first"} < set(next(iter(runs.values())).tags)
    versions = [one for one in served.client.read_artifacts() if one.description == "Sweep first"]
    artifact = max(versions, key=lambda one: one.created)
    assert "| 1 | bi_trajectory-4" in artifact.data and "The best cell again" in artifact.data
    # All is there: the second parent submits nothing
    assert served.sweep("second").wait(WAIT_SECONDS) == 0 and served.runs("second") == {}


def test_what_is_killed_does_not_stay_running_and_a_parent_goes_on_with_its_cells(served):
    options = [word for setting in LONGER for word in ("--set", setting)]
    first = served.sweep("killed", *options)
    wait_for(lambda: states(served.runs("killed")) == ["Running"] * 2, served.log)
    work = served.workspace.folder / "data/.work"
    wait_for(lambda: len(list(work.glob("*/.checkpoint.safetensors"))) == 2, served.log)
    ids = {run.id for run in served.runs("killed").values()}
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = served.sweep("killed", *options)
    # A cell, with its worker: nobody else could say that it ended
    worker = psutil.Process(served.workers["cpu-0"].pid)
    cell = worker.children()
    for process in (worker, *cell):
        process.kill()
    served.workers["cpu-0"].wait()
    wait_for(lambda: states(served.runs("killed")) == ["Crashed", "Running"], served.log)
    parents = [
        run.state.name
        for run in served.client.read_flow_runs()
        if run.state and not run.tags and run.state.name in ("Running", "Crashed")
    ]
    assert sorted(parents) == ["Crashed", "Running"]
    assert {run.id for run in served.runs("killed").values()} == ids
    os.kill(second.pid, signal.SIGINT)
    assert second.wait(60) == 130
    wait_for(
        lambda: states(served.runs("killed")) == ["Cancelled", "Crashed"],
        lambda: states(served.runs("killed")),
    )
    other = psutil.Process(served.workers["cpu-1"].pid)
    wait_for(lambda: not other.children(), other.children)


def submit(served: Served, sweep: str, settings: list[str]) -> None:
    """Submit a cell without a parent."""
    request = {
        "kind": "cell",
        "settings": settings,
        "sweep": {"profile": "toy", "sweep": sweep, "cell": "a"},
        "swept": {},
        "below": None,
        "force": False,
        "accept_code": False,
    }
    words = {"profile": "toy", "sweep": sweep, "request": request}
    deployment = served.client.read_deployment_by_name("sweep-unit/cpu").id
    tags = [f"sweep:toy/{sweep}"]
    served.client.create_flow_run_from_deployment(deployment, parameters=words, tags=tags)


def test_the_process_of_a_unit_ends_with_its_worker(served):
    submit(served, "alone", [*LONGER, "variant={distill.matching.lr_img: 0.5}"])
    worker = psutil.Process(served.workers["cpu-1"].pid)  # the only one that is left
    wait_for(lambda: states(served.runs("alone")) == ["Running"], served.log)
    (cell,) = worker.children()
    worker.kill()
    wait_for(lambda: not cell.is_running(), cell.cmdline)


def test_the_worker_of_an_allocation_of_slurm_ends_with_the_run_that_it_has(served):
    for other in served.workers.values():
        other.kill()
        other.wait()
    worker = served.start("bash", str(ROOT / "infra/slurm/worker.sbatch"), "cpu")
    served.workers["slurm"] = worker
    submit(served, "slurm", ["variant={distill.matching.lr_img: 0.7}"])
    wait_for(lambda: states(served.runs("slurm")) == ["Running"], served.log)
    worker.send_signal(signal.SIGTERM)  # as Slurm does before the allocation ends
    submit(served, "late", ["variant={distill.matching.lr_img: 0.8}"])
    assert worker.wait(WAIT_SECONDS) == 0
    assert states(served.runs("slurm")) == ["Completed"]
    assert states(served.runs("late")) in (["Scheduled"], ["Late"])
