"""A workspace with a server of Prefect, one of MLflow, and workers of the pool `cpu`; and how fast
both servers answer meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from flows.services import standing
from tests.flows.test_prefect import create_pools, free_port, running
from tests.workspace import Workspace

ASK_SECONDS = 5.0  # as a page does that somebody looks at
TIMEOUT_SECONDS = 60.0


@dataclass
class Asked:
    """Seconds of the answers to one question."""

    url: str
    body: dict[str, object]
    seconds: list[float] = field(default_factory=list)
    num_failed: int = 0

    def ask(self) -> None:
        request = urllib.request.Request(
            self.url, json.dumps(self.body).encode(), {"Content-Type": "application/json"}
        )
        started = time.perf_counter()
        try:
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).read()
        except (urllib.error.URLError, OSError):
            self.num_failed += 1
        self.seconds.append(time.perf_counter() - started)

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        late = ordered[int(0.95 * len(ordered))]
        return (
            f"{len(ordered)} questions, {self.num_failed} without an answer; median "
            f"{1000 * statistics.median(ordered):.0f} ms, of 20 the slowest {1000 * late:.0f} ms, "
            f"slowest {1000 * ordered[-1]:.0f} ms"
        )


@dataclass(frozen=True)
class Pool:
    """Servers and workers.

    Attributes:
        api: addresses of the servers, as the environment of what talks to them.
        workers: ids of the processes of the workers.
    """

    api: dict[str, str]
    workers: list[int]

    def processor_seconds(self) -> float:
        """Return what the workers and the runs that have ended took."""
        return sum(sum(psutil.Process(worker).cpu_times()[:4]) for worker in self.workers)

    def questions(self) -> dict[str, Asked]:
        """Return what the pages ask: the list of runs, each with 100 of them."""
        prefect, mlflow = self.api["PREFECT_API_URL"], self.api["MLFLOW_TRACKING_URI"]
        runs = {"experiment_ids": ["1"], "max_results": 100}
        return {
            "Prefect": Asked(f"{prefect}/flow_runs/filter", {"limit": 100}),
            "MLflow": Asked(f"{mlflow}/api/2.0/mlflow/runs/search", runs),
        }


@contextlib.contextmanager
def standing_pool(workspace: Workspace, number: int) -> Iterator[Pool]:
    """Start the servers and the workers, and stop them at the end."""
    ports = free_port(), free_port()
    api = {
        "PREFECT_API_URL": f"http://127.0.0.1:{ports[0]}/api",
        "PREFECT_HOME": str(workspace.folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports[1]}",
    }
    os.chdir(workspace.folder)
    with standing.prefect(ports[0]) as prefect, standing.mlflow(ports[1]) as mlflow:
        for server in (prefect, mlflow):
            server.wait()
        create_pools(api)
        deploy = ("prefect", "--no-prompt", "deploy", "--name", "sweep-unit/cpu")
        workspace.run(*deploy, PWD=str(workspace.folder), **api)
        with contextlib.ExitStack() as stack:
            workers = []
            for place in range(number):
                start = ("prefect", "worker", "start", "--pool", "cpu", "--name", f"cpu-{place}")
                _, worker = stack.enter_context(running(workspace, *start, "--limit", "1", **api))
                workers.append(worker.pid)
            yield Pool(api, workers)


@contextlib.contextmanager
def asked_meanwhile(questions: dict[str, Asked]) -> Iterator[None]:
    """Ask each question every few seconds while the block runs."""
    is_over = threading.Event()

    def ask(asked: Asked) -> None:
        while not is_over.wait(ASK_SECONDS):
            asked.ask()

    threads = [threading.Thread(target=ask, args=(asked,)) for asked in questions.values()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def resident_bytes(pid: int) -> int:
    """Return the memory of one process; 0 when it has ended."""
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0
