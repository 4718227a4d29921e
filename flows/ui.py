"""`make ui`: serve the Prefect UI and the MLflow UI on 127.0.0.1 until Ctrl-C.

The Prefect server is a standing one: flows started meanwhile in this folder use it and are seen
live, and it keeps the limit `gpu` for all of them. Leases of its slots are files, so that a slot of
a killed process comes back. Commands given as `python -m flows.cli FLOW` meanwhile begin at once:
they are forks of a warm interpreter (`flows/services/warm.py`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path

import psutil

from flows import cli
from flows.services import session, warm
from tasks.tracking.client import STORE, tracking_uri

HOST = "127.0.0.1"
LEASES = "prefect.server.concurrency.lease_storage.filesystem"


def main(prefect_port: int, mlflow_port: int) -> None:
    """Start both servers, print where they are, and stop both when one ends or we are told to
    stop.
    """
    session.switch_offline()
    os.environ.pop("PREFECT_API_URL", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    state = session.sessions() / session.STANDING
    servers: list[subprocess.Popen[bytes]] = []
    try:
        servers.append(_start_prefect(prefect_port, state))
        servers.append(_start_mlflow(mlflow_port))
        _wait(servers[0], f"http://{HOST}:{prefect_port}/api/health")
        _wait(servers[1], f"http://{HOST}:{mlflow_port}/health")
        print(
            f"Prefect http://{HOST}:{prefect_port}\nMLflow  "
            f"http://{HOST}:{mlflow_port}\nCtrl-C stops both",
            flush=True,
        )
        warm.start(session.Owner.of(os.getpid()), warm.STANDING)
        while all(server.poll() is None for server in servers):
            time.sleep(session.POLL_SECONDS)
    except KeyboardInterrupt:
        print("stopping")
    finally:
        state.unlink(missing_ok=True)
        _stop(servers)


def _start_prefect(port: int, state: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        HOST,
        "--port",
        str(port),
    ]
    env = {
        **os.environ,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
    }
    with (session.sessions() / "standing.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    state.write_text(
        json.dumps({"api_url": f"http://{HOST}:{port}/api", **asdict(session.Owner.of(server.pid))})
    )
    return server


def _start_mlflow(port: int) -> subprocess.Popen[bytes]:
    place = [
        "--backend-store-uri",
        tracking_uri(),
        "--artifacts-destination",
        str((STORE / "artifacts").resolve()),
    ]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mlflow",
        "server",
        *place,
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with (STORE / "ui.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    limit = time.monotonic() + session.START_SECONDS
    while time.monotonic() < limit and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    logs = f"{session.sessions() / 'standing.log'} and {STORE / 'ui.log'}"
    sys.exit(
        f"error: no server answers at {url}; see {logs}; a port in use is changed with "
        "--prefect-port or --mlflow-port"
    )


def _stop(servers: list[subprocess.Popen[bytes]]) -> None:
    """Stop the servers and the processes that they started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    family = [
        process
        for server in servers
        if server.poll() is None
        for process in psutil.Process(server.pid).children(recursive=True)
    ]
    family += [psutil.Process(server.pid) for server in servers if server.poll() is None]
    for process in reversed(family):
        if process.is_running():
            process.terminate()
    for process in psutil.wait_procs(family, timeout=10)[1]:
        process.kill()


if __name__ == "__main__":
    cli.main("ui")
