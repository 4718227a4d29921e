"""`make demo`: `dvc repro` on the profile of params.yaml, then where the results are and how much
time orchestration took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from flows.services.session import Owner
from tasks.core.foundations.file_names import METRICS, PAGE
from tasks.settings import params
from tasks.stages import DATA, REPORTS
from tasks.store import manifests
from tasks.store.manifests import MANIFEST

GONE_SECONDS = 15


def main() -> None:
    """Run, wait until the session's processes are gone, print, and exit with DVC's code."""
    started, wall = time.time(), time.monotonic()
    done = subprocess.run([sys.executable, "-m", "dvc", "repro"], check=False)
    seconds = time.monotonic() - wall
    _wait_for_the_end()
    if done.returncode:
        sys.exit(
            f"error: dvc repro ended with {done.returncode}; the message is above; `make demo` "
            "again goes on from there"
        )
    computing = computed_since(started)
    print(
        f"\nreport   {REPORTS / PAGE}\nmetrics  {REPORTS / METRICS}, or `dvc "
        "metrics show`\n"
        f"UIs      `make ui`: Prefect http://127.0.0.1:4200, MLflow http://127.0.0.1:5000\n"
        f"profile  {params.read_tree()['profile']}, {seconds:.0f} s"
    )
    if computing:
        share = 1.0 - computing / seconds
        print(
            f"time     {computing:.0f} s computing, {seconds - computing:.0f} s ({share:.0%}) "
            "orchestration: imports, Prefect, MLflow, DVC"
        )
    else:
        print("time     nothing had to be computed")


def computed_since(started: float) -> float:
    """Return the seconds that artifacts made after `started` (of the clock) took, from their
    manifests.
    """
    paths = [*DATA.glob(f"**/{MANIFEST}"), REPORTS / MANIFEST]
    fresh = [
        path
        for path in paths
        if ".work" not in path.parts and path.is_file() and path.stat().st_mtime >= started
    ]
    return sum(manifests.read(path.parent, "seconds").facts["seconds"] for path in fresh)


def _wait_for_the_end() -> None:
    limit = time.monotonic() + GONE_SECONDS
    while any(_processes()) and time.monotonic() < limit:
        time.sleep(0.1)


def _processes() -> list[Owner]:
    """Return the living servers of sessions, the standing one left out."""
    found = []
    for path in Path(".prefect/sessions").glob("*-*.json"):
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        found.append(Owner(state["pid"], str(state["created"])))
    return [server for server in found if server.is_alive]


if __name__ == "__main__":
    main()
