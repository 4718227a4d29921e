"""A standing server with both UIs, a real process worker and the deployments of prefect.yaml."""

from __future__ import annotations

import importlib
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from flows.services import standing
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
    secret = api.get("PREFECT_API_AUTH_STRING")
    with SyncPrefectClient(api["PREFECT_API_URL"], auth_string=secret) as client:
        yield client


def create_pools(api: dict[str, str]) -> None:
    """Create the work pools as infra/README.md says; the server checks their templates."""
    with prefect_client(api) as client:
        for path in sorted((ROOT / "infra/work_pools").glob("*.json")):
            template = json.loads(path.read_text())
            pool = WorkPoolCreate(name=path.stem, type="process", base_job_template=template)
            assert client.create_work_pool(pool).base_job_template == template


def flow_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Return all flow runs in the order in which they began; each is complete."""
    runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_ASC)
    assert all(run.state is not None and run.state.is_completed() for run in runs)
    return runs


def test_a_deployment_through_a_worker_makes_the_same_bytes_as_a_plain_run(tmp_path):
    deployed, plain = (make_workspace(tmp_path / name, TINIEST) for name in ("deployed", "plain"))
    ports = free_port(), free_port()
    home = {
        "PREFECT_HOME": str(deployed.folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }
    api = {"PREFECT_API_URL": f"http://127.0.0.1:{ports[0]}/api", **home}
    ui = ("--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1]))
    with running(deployed, "python", "-m", "flows.ui", *ui) as served:
        assert first_line(*served).startswith("Prefect http://127.0.0.1")
        for port in ports:
            address = f"http://127.0.0.1:{port}/"
            with urllib.request.urlopen(address, timeout=30) as page:
                assert page.status == 200
            foreign = urllib.request.Request(address, headers={"Host": "example.org"})
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(foreign, timeout=30)
        create_pools(api)
        with prefect_client(api) as client:
            run_on_one_worker(deployed, api, client)
            first, second = flow_runs(client)
            assert first.name != second.name and first.end_time <= second.start_time
            # A plain command, and a stage of DVC, are recorded in the server that stands
            assert "0 made, 5 cached" in deployed.flow_alone("train_experts").stdout
            deployed.run("dvc", "repro", "prepare_data")
            last = [run.flow_id for run in flow_runs(client)[2:]]
            assert [client.read_flow(flow).name for flow in last] == [
                "train_experts",
                "prepare_data",
            ]
            tasks = {run.name.partition("-")[0] for run in client.read_task_runs()}
            assert tasks == {"prepare_data", "embed_captions", "build_start", "expert"}
    assert left_behind(deployed) == []
    plain.flow("train_experts")
    made = deployed.digests()
    assert len(made) == 5  # prepared, embeddings, the start and two experts
    assert made == plain.digests()


def run_on_one_worker(workspace: Workspace, api: dict[str, str], client: SyncPrefectClient) -> None:
    """Give a worker of one card two runs at once, an expert each, and wait for both."""
    deploy = ("prefect", "--no-prompt", "deploy", "--name", "train_experts/gpu")
    workspace.run(*deploy, PWD=str(workspace.folder), **api)
    deployment = client.read_deployment_by_name("train_experts/gpu")
    client.create_flow_run_from_deployment(deployment.id, parameters={"indices": [0]})
    run = ("prefect", "deployment", "run", "train_experts/gpu")
    worker = ("prefect", "worker", "start", "--pool", "gpu", "--limit", "1", "--name", "card-0")
    with running(workspace, *worker, **api):
        watch = ("--watch", "--watch-interval", "1")
        workspace.run(*run, "-p", "indices=[1]", *watch, seconds=200, **api)


def test_a_run_goes_on_when_its_server_is_killed(workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    command = ("python", "-m", "flows.cli", "distill")
    longer = ("distill.matching.iterations=60", "distill.matching.checkpoint_every=2")
    workspace.set(*longer)
    with standing.prefect(free_port()) as server:
        server.wait()
        run = subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        limit = time.monotonic() + 200
        while not any(workspace.folder.glob("data/.work/*/.checkpoint.safetensors")):
            assert time.monotonic() < limit and run.poll() is None
            time.sleep(0.1)
        server.process.kill()
        output, messages = run.communicate(timeout=300)
    assert run.returncode == 0, messages
    assert "is gone; going on without it" in messages
    assert "distill: 1 made, 5 cached" in output or "distill: 0 made, 6 cached" in output


def test_prefect_yaml_names_flows_that_exist():
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    names = set()
    for deployment in declared:
        path, _, function = deployment["entrypoint"].partition(":")
        flow = getattr(
            importlib.import_module(path.removesuffix(".py").replace("/", ".")), function
        )
        names.add(f"{flow.name}/{deployment['name']}")
    assert names == {
        "pipeline/local",
        "train_experts/gpu",
        "distill-sweep/gpu",
        "distill-sweep/cpu",
        "sweep-unit/gpu",
        "sweep-unit/cpu",
        "preset/gpu",
        "study/gpu",
    }
    pools = {deployment["work_pool"]["name"] for deployment in declared}
    assert pools == {path.stem for path in (ROOT / "infra/work_pools").glob("*.json")}
