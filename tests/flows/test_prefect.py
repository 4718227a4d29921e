"""A standing server with both UIs, a real process worker and the deployments of prefect.yaml."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import FlowRunSort

from flows.policy import GPU
from tests.flows.test_flows import left_behind
from tests.workspace import ROOT, TINY, Workspace, environment, make_workspace

pytestmark = pytest.mark.services
TINIEST = (*TINY, "methods.coresets=[random]")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    workspace: Workspace, *command: str, **env: str
) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Run a program of this environment meanwhile, its output in a file (a pipe that nobody reads
    fills up), and stop it as Ctrl-C does.
    """
    log = workspace.folder.parent / f"{'_'.join(command[:3])}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=workspace.folder,
            env={**environment(), **env},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=heed_ctrl_c,
        )
    try:
        yield log, process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{command} did not stop:\n{log.read_text()[-4000:]}") from error
        finally:
            process.kill()


def heed_ctrl_c() -> None:
    """Undo that a shell lets what it starts in the background ignore Ctrl-C, which whatever starts
    the tests may have passed on.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def first_line(log: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> str:
    """Return the first line that a program prints, once it is whole."""
    limit = time.monotonic() + seconds
    while "\n" not in log.read_text():
        assert time.monotonic() < limit and process.poll() is None, (
            f"{process.args} printed {log.read_text()!r}, code {process.poll()}"
        )
        time.sleep(0.1)
    return log.read_text().splitlines()[0]


@contextmanager
def prefect_client(api: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with SyncPrefectClient(api["PREFECT_API_URL"]) as client:
        yield client


def create_pools(api: dict[str, str]) -> None:
    """Create the work pools as infra/README.md says; the server checks their templates."""
    with prefect_client(api) as client:
        for path in sorted((ROOT / "infra/work_pools").glob("*.json")):
            template = json.loads(path.read_text())
            limit = 1 if path.stem == "gpu" else None
            pool = WorkPoolCreate(
                name=path.stem, type="process", base_job_template=template, concurrency_limit=limit
            )
            made = client.create_work_pool(pool)
            assert made.base_job_template == template and made.concurrency_limit == limit


def held_slots(client: SyncPrefectClient) -> dict[str, bool]:
    """Return for each task of the latest flow run that can compute on a card, by name, whether it
    held a slot of the limit `gpu`.
    """
    (latest,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
    runs = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[latest.id]))
    )
    assert all(run.state is not None and run.state.is_completed() for run in runs)
    names = {run.name.removesuffix(f"-{run.dynamic_key[:3]}"): GPU in run.tags for run in runs}
    return {name: held for name, held in names.items() if not name.startswith("prepare_data")}


def test_a_deployment_through_a_worker_makes_the_same_bytes_as_a_private_server(tmp_path):
    deployed, private = (
        make_workspace(tmp_path / name, TINIEST) for name in ("deployed", "private")
    )
    ports = free_port(), free_port()
    home = {
        "PREFECT_HOME": str(deployed.folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }
    api = {"PREFECT_API_URL": f"http://127.0.0.1:{ports[0]}/api", **home}
    command = (
        "python",
        "-m",
        "flows.ui",
        "--prefect-port",
        str(ports[0]),
        "--mlflow-port",
        str(ports[1]),
    )
    with running(deployed, *command) as ui:
        assert first_line(*ui).startswith("Prefect http://127.0.0.1")
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
                assert page.status == 200
        worker = (
            "prefect",
            "worker",
            "start",
            "--pool",
            "gpu",
            "--type",
            "process",
            "--name",
            "one",
        )
        create_pools(api)
        with running(deployed, *worker, **api), prefect_client(api) as client:
            deployed.run(
                "prefect",
                "--no-prompt",
                "deploy",
                "--name",
                "train_experts/gpu",
                PWD=str(deployed.folder),
                **api,
            )
            run = (
                "prefect",
                "deployment",
                "run",
                "train_experts/gpu",
                "--watch",
                "--watch-interval",
                "1",
            )
            deployed.run(*run, seconds=200, **api)
            assert client.read_global_concurrency_limit_by_name("tag:gpu").limit == 1
            computed = held_slots(client)
            deployed.run("python", "-m", "flows.train_experts", **api)
            assert computed == {
                "embed_captions": True,
                "build_start": True,
                "expert-0": True,
                "expert-1": True,
            }
            # What is there already waits for no card
            assert held_slots(client) == dict.fromkeys(computed, False)
            (first,) = deployed.folder.glob("data/experts/toy/*/expert_000")
            shutil.rmtree(first)
            deployed.run("python", "-m", "flows.train_experts", **api)
            assert held_slots(client) == {**dict.fromkeys(computed, False), "expert-0": True}
    assert left_behind(deployed) == []
    private.flow_alone("train_experts")
    made = deployed.digests()
    assert len(made) == 5  # prepared, embeddings, the start and two experts
    assert made == private.digests()


def test_prefect_yaml_names_flows_that_exist():
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    names = set()
    for deployment in declared:
        path, _, function = deployment["entrypoint"].partition(":")
        flow = getattr(
            importlib.import_module(path.removesuffix(".py").replace("/", ".")), function
        )
        names.add(f"{flow.name}/{deployment['name']}")
    assert names == {"pipeline/local", "train_experts/gpu", "distill-sweep/gpu", "preset/gpu"}
    pools = {deployment["work_pool"]["name"] for deployment in declared}
    assert pools == {path.stem for path in (ROOT / "infra/work_pools").glob("*.json")}


def test_what_can_heal_is_tried_again_and_nothing_else():
    import errno

    from prefect.states import Failed

    from flows.policy import heals

    def state_of(error: Exception):
        return Failed(data=error)

    for error in (
        ConnectionError("reset"),
        TimeoutError("slow"),
        OSError(errno.EIO, "input/output"),
    ):
        assert heals(None, None, state_of(error))
    for error in (
        ValueError("shape"),
        FileNotFoundError(errno.ENOENT, "x"),
        OSError(errno.ENOSPC, "full"),
        MemoryError(),
    ):
        assert not heals(None, None, state_of(error))
