"""A warm interpreter for the stages of one `dvc repro`, or for the commands beside `make ui`: each
is a fork of it.

Importing torch, timm, Prefect and MLflow takes 15 s of two cores in every process. The first stage
of a repro, or `make ui`, starts this process beside the Prefect server; it imports libraries only,
never our code, opens no file and starts no thread. A later `python -m flows.cli` hands it its
arguments, environment and standard streams over a local socket, and waits for the exit code. Where
it is missing, or was started with other settings of the libraries, the command runs in its own
process: the result is the same. See infra/adr/0004.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.services import session
from flows.services.session import POLL_SECONDS, Owner

LIBRARIES = (
    "prefect.main",
    "prefect.artifacts",
    "prefect.task_engine",
    "prefect.flow_engine",
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "PIL.Image",
    "torch",
    "torch._dynamo",
    "timm",
    "timm.data",
    "faiss",
    "mlflow.tracking",
    "mlflow.entities",
    "mlflow.store.tracking.sqlalchemy_store",
)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
READ_AT_IMPORT = (
    "PYTHON",
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "TORCH",
    "HF_",
    "TRANSFORMERS_",
    "LD_",
)
STANDING = "standing.warm"


def start(owner: Owner, name: str | None = None) -> None:
    """Start the warm process of an owner, once, unless a standing one serves already; it ends with
    its owner.
    """
    state = session.sessions() / (name or f"{owner.name}.warm")
    if _alive(state) or _alive(session.sessions() / STANDING) or not _can_watch():
        return
    state.with_suffix(".socket").unlink(missing_ok=True)  # of a process that was killed
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "flows.services.warm",
        str(owner.pid),
        owner.created,
        str(state),
    ]
    with state.with_name(f"{state.name}.txt").open("wb") as log:  # the server's own is .log
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    state.write_text(json.dumps({**asdict(Owner.of(process.pid)), "settings": _settings()}))


def _settings() -> dict[str, str]:
    """Return the variables that libraries read while they are imported: a fork cannot change them
    any more.
    """
    return {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(READ_AT_IMPORT)
    }


def _can_watch() -> bool:
    """Whether this system can watch a process by a file handle (Linux 5.3 and later); without it
    stages run in their own process.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def run(owner: Owner, name: str, argv: list[str]) -> int | None:
    """Run a flow in a fork of the warm process and return its exit code; None when there is no warm
    process to do it.
    """
    folder = session.sessions()
    place = _wait(folder / STANDING) or _wait(folder / f"{owner.name}.warm")
    if place is None:
        return None
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(place)
        except OSError:
            return None
        job = {
            "name": name,
            "argv": argv,
            "folder": os.getcwd(),
            "environment": {**os.environ, session.OWNER: owner.text},
        }
        socket.send_fds(line, [json.dumps(job).encode() + b"\n"], [0, 1, 2])
        for number in SIGNALS:
            signal.signal(number, lambda received, _: line.sendall(bytes([received])))
        answer = b""
        while part := line.recv(16):
            answer += part
    return int(answer) if answer else 1


def _wait(state: Path) -> str | None:
    """Return the socket's path once the imports are done (they go on while the first stage
    computes).
    """
    place = state.with_suffix(".socket")
    while (found := _alive(state)) and found["settings"] == _settings():
        if place.exists():
            return place.read_text()
        time.sleep(0.05)
    return None


def _alive(state: Path) -> dict[str, Any] | None:
    """Return the content of a state file while its process runs."""
    try:
        content: dict[str, Any] = json.loads(state.read_text())
        return content if Owner(content["pid"], content["created"]).is_alive else None
    except (OSError, ValueError, KeyError):
        return None


class _Server:
    """Forks a child a connection; the parent only waits."""

    def __init__(self, owner: Owner, folder: Path) -> None:
        self.owner = owner
        self.selector = selectors.DefaultSelector()
        self.children: dict[socket.socket, int] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "socket"))
        self.listener.listen()
        self.selector.register(self.listener, selectors.EVENT_READ, ("accept", None))

    def serve(self) -> dict[str, Any] | None:
        """Return in a child with its job, in the parent with None once the owner and all children
        are gone.
        """
        while self.owner.is_alive or self.children:
            for key, _ in self.selector.select(POLL_SECONDS):
                kind, line = key.data
                if kind == "accept":
                    job = self._fork()
                    if job:
                        return job
                elif kind == "client":
                    self._listen(line)
                else:
                    self._finish(line, key.fd)
        return None

    def _fork(self) -> dict[str, Any] | None:
        line, _ = self.listener.accept()
        data, streams, _, _ = socket.recv_fds(line, 1 << 20, 3)
        while not data.endswith(b"\n"):
            data += line.recv(1 << 20)
        child = os.fork()
        if child == 0:
            self.selector.close()
            self.listener.close()
            line.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            return dict(json.loads(data))
        for stream in streams:
            os.close(stream)
        self.children[line] = child
        self.selector.register(line, selectors.EVENT_READ, ("client", line))
        self.selector.register(os.pidfd_open(child), selectors.EVENT_READ, ("child", line))
        return None

    def _listen(self, line: socket.socket) -> None:
        """Pass on a signal; a client that is gone (kill -9) takes its stage with it."""
        received = line.recv(16)
        if not received:
            self.selector.unregister(line)
        os.kill(self.children[line], received[0] if received else signal.SIGKILL)

    def _finish(self, line: socket.socket, handle: int) -> None:
        _, status = os.waitpid(self.children.pop(line), 0)
        self.selector.unregister(handle)
        os.close(handle)
        with contextlib.suppress(KeyError):
            self.selector.unregister(line)
        with contextlib.suppress(OSError):
            code = os.waitstatus_to_exitcode(status)
            line.sendall(str(code if code >= 0 else 128 - code).encode())
        line.close()


def main(owner: Owner, state: Path) -> None:
    """Import the libraries, then serve; a forked child goes on as `flows.cli`."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # children share these pages
    folder = Path(tempfile.mkdtemp(prefix="vl-distillery-"))
    job = None
    try:
        server = _Server(owner, folder)
        partial = state.with_suffix(".partial")
        partial.write_text(str(folder / "socket"))
        partial.replace(state.with_suffix(".socket"))
        job = server.serve()
    finally:
        if job is None:
            shutil.rmtree(folder, ignore_errors=True)
            for path in (state, state.with_suffix(".socket")):
                path.unlink(missing_ok=True)
    if job:
        _become(job)
    os._exit(0)


def _become(job: dict[str, Any]) -> None:
    """Go on as a command of the job's folder, with the code that lies there."""
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    sys.path[0] = job["folder"]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("flows", "tasks")]:
        del sys.modules[name]
    sys.argv = ["flows.cli", job["name"], *job["argv"]]
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    try:
        runpy.run_module("flows.cli", run_name="__main__")
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    else:
        code = 0
    _leave(code)


def _leave(code: int) -> None:
    """End like a forked process of `multiprocessing`: wait for threads, then skip the 2 s of taking
    the libraries apart.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main(Owner(int(sys.argv[1]), sys.argv[2]), Path(sys.argv[3]))
