"""A server that ends with the process that started it: `python -m flows.services.server KIND PORT`,
started by flows/services/standing.py.

Its standard input is a pipe that the starter holds open. The pipe closes when the starter is gone,
however it ended; then the server ends with all that it started. Nothing has to be cleaned up after
kill -9.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

from flows.services.session import switch_offline
from tasks.tracking import database
from tasks.tracking.client import STORE, tracking_uri

HOST = "127.0.0.1"
GRACE_SECONDS = 10.0


def main(kind: str, port: int) -> None:
    """Serve `prefect` or `mlflow` on a port of this machine's own address."""
    switch_offline()
    threading.Thread(target=_end_with_starter, daemon=True).start()
    if kind == "prefect":
        _serve_prefect(port)
    else:
        _serve_mlflow(port)


def _end_with_starter() -> None:
    """End our group, which is all that we started: in good order, or by force later."""
    os.read(0, 1)  # returns when the pipe closes
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _serve_prefect(port: int) -> None:
    origins = f"http://{HOST}:{port},http://localhost:{port}"
    # The page may be opened by either name of this machine
    os.environ |= {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
    }
    import uvicorn
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = create_app(final=True)
    # A page of another site must not reach it under a name of its own
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    uvicorn.run(app, host=HOST, port=port, log_level="warning", timeout_graceful_shutdown=2)


def _serve_mlflow(port: int) -> None:
    place = ("--host", HOST, "--port", str(port), "--workers", "1")
    if file := database.file_of(tracking_uri()):
        database.ensure(file, STORE)
    store = ("--backend-store-uri", tracking_uri())
    files = ("--artifacts-destination", str((STORE / "artifacts").resolve()))
    # It would start five more processes, which take half a minute of a core
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    sys.argv = ["mlflow", "server", *store, *files, *place]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
