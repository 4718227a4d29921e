"""Folders whose runs log to MLflow, real servers of MLflow, and what MLflow has, to the last value.

See `logged_units.py` for the runs.
"""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from tasks.tracking import client
from tests import forked
from tests.faults import logged_units
from tests.faults.logged_units import DATASET
from tests.workspace import environment

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
WITHOUT = "going on without MLflow"


@dataclass
class Folder:
    """A folder in which runs log.

    Attributes:
        uri: of their server; None is the database of the folder.
        env: more of their environment.
        max_file_bytes: what a file of theirs may grow to.
    """

    place: Path
    uri: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    max_file_bytes: int = resource.RLIM_INFINITY

    @property
    def spool(self) -> Path:
        (found,) = filter(Path.is_dir, (self.place / ".mlflow/spool").iterdir())
        return found

    @property
    def waiting(self) -> list[str]:
        return [path.name for path in self.spool.iterdir()]

    def start(self, run: int, num_units: int) -> Started:
        """Start a run, and return it when it is about to log."""
        return self.begin(logged_units.main, run, num_units)

    def begin(self, call: Callable[..., None], *args: object) -> Started:
        """Call something in a process of the folder that has MLflow imported."""
        self.place.mkdir(parents=True, exist_ok=True)
        address = {client.URI: self.uri} if self.uri else {}
        env = {**environment(), **address, **self.env}
        forked.start(env)
        streams = [Path(tempfile.mkstemp(dir=self.place.parent)[1]) for _ in range(2)]
        how = (self.place, env, streams, self.max_file_bytes, call, args)
        process = forked.CONTEXT.Process(target=_become, args=how)
        process.start()
        started = Started(process, streams)
        while not started.out.startswith(logged_units.READY):
            assert process.is_alive(), started.said
            time.sleep(0.01)
        return started

    def run(self, run: int, num_units: int) -> tuple[float, str]:
        """Run to the end, and return for how many seconds MLflow kept it, and what it said."""
        return self.start(run, num_units).end()


@dataclass
class Started:
    """A process and the files of what it writes."""

    process: multiprocessing.process.BaseProcess
    streams: list[Path]

    @property
    def out(self) -> str:
        return self.streams[0].read_text()

    @property
    def said(self) -> str:
        return self.streams[1].read_text()

    def end(self) -> tuple[float, str]:
        """Wait for a run; return for how many seconds MLflow kept it, and what it said."""
        self.process.join(150)
        assert self.process.exitcode == 0 and "Traceback" not in self.said, self.said
        return float(self.out.split()[-1]), self.said

    def kill_after(self, seconds: float) -> bool:
        """Kill -9 the process after a while; return whether it still ran."""
        limit = time.monotonic() + seconds
        return self.kill_when(lambda: time.monotonic() > limit)

    def kill_when(self, is_so: Callable[[], bool]) -> bool:
        """Kill -9 the process as soon as it is so; return whether it still ran."""
        while self.process.is_alive() and not is_so():
            time.sleep(0.001)
        was_running = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return was_running


def _become(
    place: Path,
    env: dict[str, str],
    streams: list[Path],
    max_file_bytes: int,
    call: Callable[..., None],
    args: tuple[object, ...],
) -> None:
    forked.stand(place, env, streams)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes,) * 2)
    call(*args)


def check(uri: str, runs: dict[int, int]) -> None:
    """Assert that MLflow has the units of these runs, each once and whole, and no others."""
    from mlflow.tracking import MlflowClient

    seen = MlflowClient(uri)
    experiment = seen.get_experiment_by_name(DATASET)
    assert experiment.tags[client.KIND] == client.OURS
    found = seen.search_runs([experiment.experiment_id], max_results=1000)
    parents = {run.data.tags["invocation"]: run for run in found if "level" in run.data.tags}
    assert len(found) == len(parents) + sum(runs.values())
    assert set(parents) == {f"run {run}" for run in runs}
    for run, num_units in runs.items():
        parent = parents[f"run {run}"]
        nested = {
            one.info.run_name: one
            for one in found
            if one.data.tags.get(client.PARENT) == parent.info.run_id
        }
        names = [logged_units.name_of(run, number) for number in range(num_units)]
        assert sorted(nested) == sorted(names)
        assert parent.info.status == "FINISHED" and parent.data.params == {"run": str(run)}
        firsts = []
        for number, name in enumerate(names):
            child, losses = nested[name], logged_units.values(run, number)
            firsts.append(losses[0])
            history = seen.get_metric_history(child.info.run_id, "loss")
            assert [point.value for point in history] == losses
            assert len(child.inputs.dataset_inputs) == 1 and child.info.status == "FINISHED"
            files = seen.list_artifacts(child.info.run_id)
            assert [file.path for file in files] == [f"{name}.txt"]
            assert parent.data.tags[f"all.{number}"] == logged_units.digest_of(run, number)
        assert parent.data.metrics == {
            client.MEAN: mean(firsts),
            "test/best_mean_recall": firsts[-1],
        }
        assert parent.data.tags["best_set"] == names[-1]


@dataclass
class Server:
    """A real server of MLflow on this machine, which can be killed and started again."""

    store: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.store.mkdir(exist_ok=True)
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        kept = [
            f"sqlite:///{self.store}/server.db",
            "--artifacts-destination",
            f"{self.store}/files",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *place, "--backend-store-uri", *kept],
            cwd=self.store,
            env={**environment(), **QUIET},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        limit = time.monotonic() + 300
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < limit
            time.sleep(0.2)

    def clear(self) -> None:
        """Remove what earlier tests logged."""
        from mlflow.tracking import MlflowClient

        seen = MlflowClient(self.uri)
        if found := seen.get_experiment_by_name(DATASET):
            seen.rename_experiment(found.experiment_id, f"{DATASET} {time.monotonic()}")

    def signal(self, number: int) -> None:
        """Send a signal to all its processes; SIGKILL and SIGTERM end it."""
        if self.process:
            os.killpg(self.process.pid, number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.process.wait()
                self.process = None

    def _answers(self) -> bool:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(f"{self.uri}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


@contextlib.contextmanager
def server(store: Path) -> Iterator[Server]:
    """Give a server that is not started yet, and kill it at the end."""
    found = Server(store, free_port())
    try:
        yield found
    finally:
        found.signal(signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
