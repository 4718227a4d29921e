"""One Prefect server and one invocation id for everything that belongs together: a whole `dvc
repro`, or one process.

The owner of a session is the nearest `dvc` process above us, or we ourselves. The first process of
a session starts a server (`flows/services/server.py`) that stops by itself once its owner and the
attached processes are gone; later processes find it by a file under PREFECT_HOME. A standing
server, named by PREFECT_API_URL or started with `make ui`, is used instead. This file imports
neither Prefect nor MLflow at its top, so that the server boots while they are imported. See
infra/adr/0001.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import filelock
import psutil

START_SECONDS = 120
POLL_SECONDS = 0.5
STANDING = "standing.json"
OWNER = "VL_SESSION_OWNER"


@dataclass(frozen=True)
class Owner:
    """A process, told from earlier and later ones with the same id by when it was created.

    Attributes:
        created: on Linux clock ticks since boot and which boot that was: unlike a time of day they
            stay when the clock is set.
    """

    pid: int
    created: str

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Return the process that has this id now.

        Raises:
            psutil.NoSuchProcess: there is none.
        """
        return cls(pid, _identity(pid)[0])

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        try:
            created, is_zombie = _identity(self.pid)
        except psutil.NoSuchProcess:
            return False
        return created == self.created and not is_zombie

    @property
    def text(self) -> str:
        """Exact form for the environment variable that names the owner to a fork of the warm
        process.
        """
        return f"{self.pid} {self.created}"

    @property
    def name(self) -> str:
        return f"{self.pid}-{self.created}"


@dataclass(frozen=True)
class Session:
    """Where Prefect answers, and the process that serves it when the session started one."""

    api_url: str
    server: Owner | None


def begin() -> Session:
    """Set the offline switches, find or start the server and put its address into the environment;
    does not wait for it.

    Raises:
        RuntimeError: the server process ended at once, or is too slow; the message has the last
            line of its log.
    """
    switch_offline()
    owner = find_owner()
    url = os.environ.get("PREFECT_API_URL") or _standing()
    if url:
        _point_to(url)
        return Session(url, None)
    state = sessions() / f"{owner.name}.json"
    with filelock.FileLock(sessions() / ".lock"):
        found = read_state(state)
        if found is None:
            start_server(owner, state)
            found = read_state(state)
    if found is None:
        raise RuntimeError(
            f"the Prefect server gave no address within {START_SECONDS} s: "
            f"{_last_words(state.with_suffix('.log'))}"
        )
    url, server = found
    _point_to(url)
    session = Session(url, server)
    if owner.pid == os.getpid():
        # Registered before Prefect's own: runs after its last log was sent
        atexit.register(end, session)
    else:
        (sessions() / owner.name).mkdir(exist_ok=True)
        (sessions() / owner.name / Owner.of(os.getpid()).name).touch()
        threading.Thread(target=_follow, args=(owner,), daemon=True).start()
    return session


def invocation() -> str:
    """Return the id that all processes of one session share, for the parent run in MLflow."""
    return sha256(f"{platform.node()} {find_owner().name}".encode()).hexdigest()[:32]


def wait(session: Session, seconds: float = START_SECONDS) -> None:
    """Return when the server answers.

    Raises:
        RuntimeError: it does not within `seconds`, or its process ended; the message then has the
            last line of its log.
    """
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and (session.server is None or session.server.is_alive):
        try:
            with urllib.request.urlopen(f"{session.api_url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(
        f"no Prefect server answers at {session.api_url}: {_why_not(session, seconds)}"
    )


def end(session: Session) -> None:
    """Stop the session's own server and wait for its end."""
    if session.server and session.server.is_alive:
        process = psutil.Process(session.server.pid)
        process.terminate()
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()


def is_private() -> bool:
    """Return whether this process uses a server of its own session, which nobody outside it can
    reach for a slot.
    """
    url = os.environ.get("PREFECT_API_URL")
    states = [path for path in sessions().glob("*.json") if path.name != STANDING]
    return url is None or any(
        found is not None and found[0] == url for found in map(read_state, states)
    )


def switch_offline() -> None:
    """Set what keeps Prefect, MLflow and DVC from calling out, unless it is set already."""
    switches = {
        "PREFECT_HOME": str(Path(".prefect").resolve()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(START_SECONDS),
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name, value in switches.items():
        os.environ.setdefault(name, value)


def find_owner() -> Owner:
    """Return the nearest `dvc` process above this one when a DVC stage runs us, else this
    process.
    """
    if OWNER in os.environ:
        pid, created = os.environ[OWNER].split()
        return Owner(int(pid), created)
    if "DVC_STAGE" in os.environ:
        for parent in psutil.Process().parents():
            try:
                words = parent.cmdline()
            except psutil.Error:
                continue
            if any(Path(word).name in ("dvc", "dvc.exe") for word in words[:4]):
                return Owner.of(parent.pid)
    return Owner.of(os.getpid())


def sessions() -> Path:
    """Return the folder of session files, created on first use."""
    switch_offline()
    folder = Path(os.environ["PREFECT_HOME"]) / "sessions"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_state(path: Path) -> tuple[str, Owner] | None:
    """Return (address, server process) of a session file when that server still runs."""
    try:
        state = json.loads(path.read_text())
        server = Owner(state["pid"], str(state["created"]))
    except (OSError, ValueError, KeyError):
        return None
    return (state["api_url"], server) if server.is_alive else None


def _identity(pid: int) -> tuple[str, bool]:
    """Return (when the process was created, whether it is a zombie).

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    try:
        # The name, in parentheses, may hold anything; then come the state and, 19 fields later, the
        # start in ticks (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        process = psutil.Process(pid)
        return f"{process.create_time():.2f}", process.status() == psutil.STATUS_ZOMBIE
    return f"{fields[19]}_{boot[:8]}", fields[0] in "ZX"


def _point_to(url: str) -> None:
    os.environ["PREFECT_API_URL"] = url
    if "prefect" in sys.modules:  # `python -m flows.<stage>` imports Prefect before it comes here
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _standing() -> str | None:
    found = read_state(sessions() / STANDING)
    return found[0] if found else None


def start_server(owner: Owner, state: Path) -> None:
    """Start a server that lasts as long as its owner, and return once it has written its address to
    `state`.
    """
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "flows.services.server",
        str(owner.pid),
        owner.created,
        str(state),
    ]
    with state.with_suffix(".log").open("wb") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit and server.poll() is None and read_state(state) is None:
        time.sleep(0.02)


def _why_not(session: Session, seconds: float) -> str:
    if session.server is None:
        return (
            f"waited {seconds:.0f} s; the address is that of PREFECT_API_URL: start that server, "
            "or unset the variable"
        )
    log = sessions() / f"{find_owner().name}.log"
    if session.server.is_alive:
        return f"waited {seconds:.0f} s; its log is {log}"
    return f"its process ended; {_last_words(log)}"


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return (
        f"its last words were: {last}; mend what they name and run the command again; the whole "
        f"log is {log}"
    )


def _follow(owner: Owner) -> None:
    """Interrupt this stage when its `dvc` is gone: nobody would record its outputs."""
    while owner.is_alive:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)
