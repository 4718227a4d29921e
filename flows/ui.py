"""`make ui`: serve the Prefect UI and the MLflow UI on 127.0.0.1 until Ctrl-C.

The Prefect server is a standing one: flows started meanwhile in this folder are recorded there and
seen live.
"""

from __future__ import annotations

import signal
import sys
import time

from flows import cli
from flows.services import session, standing
from tasks.tracking import client


def main(prefect_port: int, mlflow_port: int) -> None:
    """Start both servers, print where they are, and stop both when one ends or we are told to
    stop.
    """
    try:
        client.check_folder()
    except ValueError as error:
        sys.exit(f"error: {error}")
    # As an exception, so that the servers are stopped on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _serve(prefect_port, mlflow_port)
    except ConnectionError as error:
        sys.exit(f"error: {error}; a port in use is changed with --prefect-port or --mlflow-port")
    except KeyboardInterrupt:
        print("stopping")


def _serve(prefect_port: int, mlflow_port: int) -> None:
    if prefect_port == mlflow_port:
        raise ConnectionError(f"both servers were given the port {mlflow_port}")
    with standing.prefect(prefect_port) as prefect, standing.mlflow(mlflow_port) as mlflow:
        servers = (prefect, mlflow)
        for server in servers:
            server.wait()
        print(
            f"Prefect {prefect.url.removesuffix('/api')}\nMLflow  {mlflow.url}\nCtrl-C stops both",
            flush=True,
        )
        while all(server.is_alive for server in servers):
            time.sleep(session.POLL_SECONDS)
        ended = next(server for server in servers if not server.is_alive)
        sys.exit(f"error: the server at {ended.url} ended; its log is {ended.log}")


if __name__ == "__main__":
    cli.main("ui")
