"""The services of infra/compose as processes of this machine: the commands and the environment of
the file, Postgres of Debian, and a store that speaks S3.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.flows.test_prefect import free_port, heed_ctrl_c
from tests.infra.postgres import postgres
from tests.workspace import ROOT, TINY, Workspace, environment, make_workspace

pytestmark = pytest.mark.services

HOSTS = {"postgres": 5432, "store": 9000, "prefect": 4200, "mlflow": 5000}
SECRETS = {
    "POSTGRES_PASSWORD": "p-a-s-s",
    "AWS_ACCESS_KEY_ID": "k-e-y",
    "AWS_SECRET_ACCESS_KEY": "s-e-c-r-e-t",
    "PREFECT_API_AUTH_STRING": "us-e-r:w-o-r-d",
}
TINIEST = (*TINY, "methods.coresets=[random]", "methods.distillers=[]")


@contextmanager
def _running(command, folder: Path, log: Path, env) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(is_there, log: Path, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < limit, log.read_text(errors="replace")[-3000:]
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


class Services:
    """The services of the compose file; each name of a host stands for a port of this machine."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.ports = {name: free_port() for name in HOSTS}
        text = (ROOT / "infra/compose/compose.yaml").read_text()
        for name, port in HOSTS.items():
            own = f"127.0.0.1:{self.ports[name]}"
            text = re.sub(rf"\b(?<![.\w-]){name}:{port}\b", own, text)
            text = re.sub(rf"\b(127\.0\.0\.1|localhost):{port}\b", own, text)
            text = re.sub(rf'(--port[=,] ?"?){port}\b', rf"\g<1>{self.ports[name]}", text)
        text = text.replace('PORT: "5432"', f'PORT: "{self.ports["postgres"]}"')
        text = text.replace("HOST: postgres", "HOST: 127.0.0.1").replace("0.0.0.0", "127.0.0.1")
        for name, value in SECRETS.items():
            text = re.sub(rf"\$\{{{name}:\?[^}}]*\}}", value, text)
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")
        self.services = yaml.safe_load(text)["services"]

    def env(self, name: str) -> dict[str, str]:
        own = self.services[name].get("environment", {})
        home = str(self.workspace.folder.parent / f"home-{name}")
        return {**environment(), "PREFECT_HOME": home, **own, **SWITCHES}

    def command(self, name: str) -> list[str]:
        return list(self.services[name]["command"])

    def once(self, name: str) -> str:
        return self.workspace.run(*self.command(name), seconds=180, **self.env(name)).stdout

    def log(self, name: str) -> Path:
        return self.workspace.folder.parent / f"{name}.log"

    @contextmanager
    def stands(self, name: str, path: str = "") -> Iterator[None]:
        """Run a service meanwhile; wait until it answers at a path, if it has one."""
        log, url = self.log(name), f"http://127.0.0.1:{self.ports.get(name)}{path}"
        with _running(self.command(name), self.workspace.folder, log, self.env(name)):
            if path:
                _wait(lambda: _answers(url), log)
            yield


SWITCHES = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}


@pytest.fixture
def services(tmp_path):
    workspace = make_workspace(tmp_path / "copy", TINIEST)
    shutil.copytree(ROOT / "infra", workspace.folder / "infra")
    found = Services(workspace)
    with ExitStack() as stack:
        stack.enter_context(
            postgres(
                found.ports["postgres"], tmp_path / "postgres.log", SECRETS["POSTGRES_PASSWORD"]
            )
        )
        log = tmp_path / "store.log"
        store = [sys.executable, "-m", "moto.server", "-p", str(found.ports["store"])]
        stack.enter_context(_running(store, tmp_path, log, environment()))
        _wait(lambda: _answers(f"http://127.0.0.1:{found.ports['store']}/moto-api/"), log)
        found.once("buckets")
        found.once("buckets")
        for name, path in (("prefect", "/api/health"), ("mlflow", "/health")):
            stack.enter_context(found.stands(name, path))
        yield found


def test_a_run_through_the_services_of_the_compose_file(services):
    workspace, env = services.workspace, services.env("local")
    for _ in range(2):
        services.once("deployments")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{env['PREFECT_API_URL']}/admin/version")
    log = services.log("local")
    with services.stands("local"):
        settings = f'settings=["{TINIEST[0]}"]'
        words = ("deployment", "run", "pipeline/local", "-p", settings, "--watch")
        done = workspace.run("prefect", *words, seconds=240, check=False, **env)
        assert done.returncode == 0, done.stdout + done.stderr + log.read_text()[-3000:]
    assert list(workspace.folder.glob("data/scores/toy/*/seed_0/manifest.json"))
    shown = _mlflow_runs(services)
    assert shown >= 2
    for path in [*workspace.folder.rglob("*.json"), log]:
        text = path.read_text(errors="replace")
        assert not [name for name, value in SECRETS.items() if value in text], path


def _mlflow_runs(services: Services) -> int:
    """Return how many runs the server knows."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{services.ports['mlflow']}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    return len(client.search_runs(experiments))
