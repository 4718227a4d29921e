"""`make demo`: the pipeline of the profile of params.yaml, once and in one process, recorded by
Prefect, MLflow and DVC; then where the results are and how much time orchestration took.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from flows import cli
from flows.services import session, standing
from flows.services.server import HOST
from tasks import preflight
from tasks.core.foundations.file_names import METRICS, PAGE
from tasks.settings import params
from tasks.stages import DATA, LAST, REPORTS
from tasks.store import manifests
from tasks.store.manifests import MANIFEST


def main() -> None:
    """Run, and exit as a flow does; the same command goes on where one was interrupted."""
    cli.guarded(_run)


def _run() -> None:
    started, wall = time.time(), time.monotonic()
    session.begin()
    preflight.check(params.load(()), LAST)  # what is wrong is refused before a server starts
    with _server():
        cli.run("pipeline", {"settings": ()})
        # DVC takes over what is there; `dvc repro` then has nothing to do
        done = subprocess.run([sys.executable, "-m", "dvc", "commit", "--force"], check=False)
    if done.returncode:
        sys.exit("error: DVC could not record the run; its message is above; run `dvc repro`")
    _show(computed_since(started), time.monotonic() - wall)


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """Name a Prefect server to the flows: one that stands already, or one for this run."""
    if session.API_URL in os.environ:
        yield
        return
    # Port 0 makes the system choose one that is free
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    with standing.prefect(port) as server:
        os.environ[session.API_URL] = server.url
        importlib.import_module("flows.pipeline")  # while the server starts
        server.wait()
        yield


def computed_since(started: float) -> float:
    """Return the seconds that artifacts made after `started` (of the clock) took, from their
    manifests.
    """
    paths = [*DATA.glob(f"**/{MANIFEST}"), *REPORTS.glob(f"*/{MANIFEST}")]
    # A work folder that a kill left holds links to manifests that are counted at their own place
    fresh = [
        path
        for path in paths
        if ".work" not in path.parts and path.is_file() and path.stat().st_mtime >= started
    ]
    return sum(manifests.read(path.parent, "seconds").facts["seconds"] for path in fresh)


def _show(computing: float, seconds: float) -> None:
    profile = params.read_tree()["profile"]
    folder = REPORTS / profile
    print(
        f"\nreport   {folder / PAGE}\nmetrics  {folder / METRICS}, or `dvc "
        "metrics show`\n"
        f"UIs      `make ui`: Prefect http://127.0.0.1:4200, MLflow http://127.0.0.1:5000\n"
        f"profile  {profile}, {seconds:.0f} s"
    )
    if computing:
        share = 1.0 - computing / seconds
        print(
            f"time     {computing:.0f} s computing, {seconds - computing:.0f} s ({share:.0%}) "
            "orchestration: imports, Prefect, MLflow, DVC"
        )
    else:
        print("time     nothing had to be computed")


if __name__ == "__main__":
    main()
