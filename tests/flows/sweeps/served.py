"""A workspace with a Prefect server of its own, which can be killed and started again, and process
workers of its pools.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from flows.services import session
from tests.flows.test_prefect import create_pools, free_port, heed_ctrl_c, prefect_client
from tests.workspace import Workspace, environment

WAIT_SECONDS = 600


@dataclass
class Server:
    """A Prefect server.

    Attributes:
        home: the folder of its database, unless `env` names another.
        secret: `user:password` that it asks for.
        env: more of its environment.
    """

    home: Path
    port: int = field(default_factory=free_port)
    secret: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> dict[str, str]:
        """What tells a program of it."""
        told = {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        if self.secret:
            told["PREFECT_API_AUTH_STRING"] = self.secret
        return told

    def start(self) -> None:
        """Start it, and return when it answers."""
        own = {**self.api, **self.env}
        del own["PREFECT_API_URL"]
        if self.secret:
            own["PREFECT_SERVER_API_AUTH_STRING"] = self.secret
        self.home.mkdir(exist_ok=True)
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.services.server", "prefect", str(self.port)],
                cwd=Path(__file__).parents[3],
                env={**environment(), **own},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(
            lambda: session.answers(f"{self.api['PREFECT_API_URL']}/health"),
            (self.home / "server.log").read_text,
        )

    def end(self, number: int) -> None:
        """Send it a signal, and return when it is gone."""
        assert self.process
        self.process.send_signal(number)
        self.process.wait(60)
        self.process.communicate()


@dataclass(frozen=True)
class Served:
    """A workspace with a server, and its workers by name."""

    workspace: Workspace
    server: Server
    client: SyncPrefectClient
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def api(self) -> dict[str, str]:
        return self.server.api

    def deploy(self, name: str, folder: str | None = None) -> None:
        """Make the deployment of a name; its runs take place in `folder`, or in the workspace."""
        where = folder or str(self.workspace.folder)
        command = ("prefect", "--no-prompt", "deploy", "--name", name)
        self.workspace.run(*command, **{**self.api, "PWD": where})

    def start_worker(
        self, name: str, pool: str = "cpu", at: Path | None = None, **env: str
    ) -> None:
        """Start a worker that takes one run at a time, in a folder."""
        command = ("prefect", "worker", "start", "--pool", pool, "--limit", "1", "--name", name)
        self.workers[name] = self.start(*command, at=at, **env)

    def start(self, *command: str, at: Path | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start a program in a folder; what it writes is in its log."""
        place = at or self.workspace.folder
        with (self.workspace.folder.parent / f"{Path(command[1]).name}.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=place,
                env={**environment(), **self.api, "PWD": str(place), **env},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=heed_ctrl_c,
            )

    def sweep(self, name: str, *options: str, at: Path | None = None) -> subprocess.Popen[bytes]:
        words = ("--pool", "cpu", "--workers", "2", "--name", name, *options)
        return self.start("python", "-m", "flows.distill_sweep", *words, at=at)

    def all_runs(self, sweep: str) -> list[FlowRun]:
        """Return the runs of a sweep's units."""
        found = self.client.read_flow_runs(limit=200)
        return [run for run in found if f"sweep:toy/{sweep}" in run.tags]

    def runs(self, sweep: str) -> dict[str, FlowRun]:
        """Return the runs of the units of a sweep by their names; each unit has one."""
        found = self.all_runs(sweep)
        named = {run.name: run for run in found}
        assert len(named) == len(found)
        return named

    def under_way(self) -> list[FlowRun]:
        """Return all runs that have not ended."""
        found = self.client.read_flow_runs(limit=200)
        return [run for run in found if run.state and not run.state.is_final()]

    def log(self) -> str:
        return (self.workspace.folder.parent / "-m.log").read_text()


@contextmanager
def serving(workspace: Workspace, secret: str | None = None, **env: str) -> Iterator[Served]:
    """Give a server with work pools and without workers; workers end with the block.

    Args:
        secret, env: see `Server`.
    """
    server = Server(workspace.folder.parent / "prefect", secret=secret, env=env)
    server.start()
    try:
        with prefect_client(server.api) as client:
            create_pools(server.api)
            found = Served(workspace, server, client)
            try:
                yield found
            finally:
                for worker in found.workers.values():
                    worker.send_signal(signal.SIGINT)
                for worker in found.workers.values():
                    worker.wait(60)
    finally:
        server.end(signal.SIGTERM)


def wait_for(is_so: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait until it is so."""
    limit = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < limit, what()
        time.sleep(0.2)


def states(runs: dict[str, FlowRun] | list[FlowRun]) -> list[str]:
    """Return the names of the states of runs, sorted."""
    listed = runs.values() if isinstance(runs, dict) else runs
    return sorted(run.state.name for run in listed if run.state)
