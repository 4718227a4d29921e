"""A Prefect server that lives as long as its owner: `python -m flows.services.server PID CREATED
STATE`, started by flows/services/session.py.

It writes its address to STATE before it imports Prefect, and serves on a free port of 127.0.0.1. It
stops when the owner and every attached process are gone, however they ended. Nothing has to be
cleaned up after kill -9.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flows.services.session import POLL_SECONDS, Owner, switch_offline

if TYPE_CHECKING:
    import uvicorn


def serve(owner: Owner, state: Path) -> None:
    """Serve until `owner` and the processes listed beside `state` are gone."""
    switch_offline()
    # 1 s; the flows use no blocks
    os.environ.setdefault("PREFECT_API_BLOCKS_REGISTER_ON_START", "false")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the state file goes, too
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    me = Owner.of(os.getpid())
    partial = state.with_suffix(".partial")
    partial.write_text(json.dumps({"api_url": url, "pid": me.pid, "created": me.created}))
    partial.replace(state)
    servers: list[uvicorn.Server] = []
    threading.Thread(target=_watch, args=(servers, owner, state), daemon=True).start()
    try:
        _run(listener, servers)
    finally:
        _forget(state)


def _run(listener: socket.socket, servers: list[uvicorn.Server]) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    servers.append(
        uvicorn.Server(
            uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
        )
    )
    servers[0].run(sockets=[listener])


def _watch(servers: list[uvicorn.Server], owner: Owner, state: Path) -> None:
    """End the server with its users: at once while it is importing, else in good order (it may be
    migrating the database).
    """
    while owner.is_alive or any(client.is_alive for client in _clients(state)):
        time.sleep(POLL_SECONDS)
    if servers:
        servers[0].should_exit = True
    else:
        _forget(state)
        os._exit(0)


def _forget(state: Path) -> None:
    state.unlink(missing_ok=True)
    shutil.rmtree(state.with_suffix(""), ignore_errors=True)


def _clients(state: Path) -> list[Owner]:
    folder = state.with_suffix("")
    if not folder.is_dir():
        return []
    names = [path.name.split("-", 1) for path in folder.iterdir()]
    return [Owner(int(pid), created) for pid, created in names]


if __name__ == "__main__":
    serve(Owner(int(sys.argv[1]), sys.argv[2]), Path(sys.argv[3]))
