"""The standing servers of a folder: while they run, they serve every command given there.

Commands find the Prefect server by `standing.json` under PREFECT_HOME. `make ui` starts both
servers until Ctrl-C, `make demo` starts Prefect's for one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.services import session
from flows.services.server import HOST
from tasks.tracking.client import STORE


@dataclass(frozen=True)
class Server:
    """A server process, where it answers, and its log."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> None:
        """Return when it answers, and say what it did to the database.

        Raises:
            ConnectionError: it does not; the message has the last line of its log.
        """
        limit = time.monotonic() + session.START_SECONDS
        while not session.answers(f"{self.url}/health"):
            if not self.is_alive or time.monotonic() > limit:
                raise ConnectionError(
                    f"no server answers at {self.url}; its last words were: {self._last_words()}; "
                    f"mend what they name and run the command again; the whole log is {self.log}"
                )
            time.sleep(0.05)
        for line in self._lines():
            if line.startswith(str(STORE.resolve())):
                print(line, file=sys.stderr)

    def _last_words(self) -> str:
        return next((line.strip() for line in reversed(self._lines()) if line.strip()), "nothing")

    def _lines(self) -> list[str]:
        return self.log.read_text(errors="replace").split("\n")


@contextlib.contextmanager
def prefect(port: int) -> Iterator[Server]:
    """Start the Prefect server of this folder, and stop it at the end.

    Raises:
        ConnectionError: there is one already.
    """
    if found := session.standing():
        raise ConnectionError(f"a Prefect server of this folder stands already, at {found}")
    state = session.sessions() / session.STANDING
    with _started("prefect", port, session.sessions() / "standing.log", "/api") as server:
        owner = asdict(session.Owner.of(server.process.pid))
        partial = state.with_suffix(".partial")
        # Renamed into place: another command must not read half of it
        partial.write_text(json.dumps({"api_url": server.url, **owner}))
        partial.replace(state)
        try:
            yield server
        finally:
            state.unlink(missing_ok=True)


@contextlib.contextmanager
def mlflow(port: int) -> Iterator[Server]:
    """Start the MLflow server of this folder, and stop it at the end."""
    STORE.mkdir(exist_ok=True)
    with _started("mlflow", port, STORE / "ui.log", "") as server:
        yield server


@contextlib.contextmanager
def _started(kind: str, port: int, log: Path, path: str) -> Iterator[Server]:
    _check_is_free(port)
    command = [sys.executable, "-W", "ignore", "-m", "flows.services.server", kind, str(port)]
    env = {name: value for name, value in os.environ.items() if name != session.API_URL}
    with log.open("wb") as output:
        # A group of its own: Ctrl-C in the terminal reaches us alone, and we end it in good order
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Server(process, f"http://{HOST}:{port}{path}", log)
    finally:
        process.communicate()  # closes the pipe, at which the server ends
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what a server that was killed left behind


def _check_is_free(port: int) -> None:
    """Raise ConnectionError where another program listens: it would be taken for our server."""
    with socket.socket() as probe:
        # As the server does: a port that its last owner left a moment ago is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConnectionError(f"port {port} of {HOST} cannot be served: {error}") from error
