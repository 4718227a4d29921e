"""What a command runs beside: the `dvc` that started it, and a standing Prefect server.

Nothing here imports Prefect or MLflow. `begin` comes first in a process: when the `dvc` above a
stage ends, the stage ends too, even while it still imports its libraries. See infra/adr/0001.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil

START_SECONDS = 120
POLL_SECONDS = 0.5
GONE_SECONDS = 10.0
END_SECONDS = 30.0  # for what is interrupted to end in good order
STANDING = "standing.json"
RWLOCK = Path(".dvc/tmp/rwlock")
API_URL = "PREFECT_API_URL"
WORKER_RUN = "PREFECT__FLOW_RUN_ID"  # what a worker tells the process of a run
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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


def begin() -> None:
    """Set the offline switches, name the standing server to Prefect, and end with the `dvc` above
    us.
    """
    switch_offline()
    # An address that the user sets goes before the server of this folder
    if API_URL not in os.environ and (url := standing()):
        os.environ[API_URL] = url
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_follow, args=(find_owner(),), daemon=True).start()


@functools.cache
def end_with_worker() -> None:
    """End this process when the worker of Prefect that started it is gone: nobody else would record
    how it ends.
    """
    if WORKER_RUN in os.environ:
        with contextlib.suppress(psutil.NoSuchProcess):
            above = Owner.of(os.getppid())
            threading.Thread(target=_follow, args=(above,), daemon=True).start()


def switch_offline() -> None:
    """Set the variables that keep Prefect, MLflow and DVC from calling out, and Hugging Face from
    drawing bars.

    A variable that is set already stays. This machine's own addresses never go through a proxy.
    """
    switches = {
        "PREFECT_HOME": str(Path(".prefect").resolve()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Jobs of its server that judge language models
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # What MLflow does not take at once waits in a file, and a second try is the next run's
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        # Stages report progress themselves, in lines where there is no terminal
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    for name, value in switches.items():
        os.environ.setdefault(name, value)
    # Libraries read either spelling; where both are set, some the one and some the other
    for name in ("no_proxy", "NO_PROXY"):
        spared = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys((*spared, *LOOPBACK)))


def find_owner() -> Owner | None:
    """Return the process that this one has to end with.

    In a stage of DVC that is the `dvc` above it, or the program that calls DVC; None when that has
    ended. Elsewhere it is this process itself.
    """
    if "DVC_STAGE" in os.environ:
        # By its lock file first: DVC may run inside another program, which is not called dvc
        writers = _dvc_writers()
        for parent in psutil.Process().parents():
            with contextlib.suppress(psutil.Error):  # it ends while we look
                names = [Path(word).name for word in parent.cmdline()[:4]]
                if parent.pid in writers or "dvc" in names or "dvc.exe" in names:
                    return Owner.of(parent.pid)
        if writers:
            return None
    return Owner.of(os.getpid())


def _dvc_writers() -> set[int]:
    """Return the ids of the processes that write outputs of stages here, from DVC's own lock file.

    A process that runs a stage is named there, and stays named when it is killed.
    """
    try:
        writers = json.loads(RWLOCK.read_text())["write"].values()
        return {int(writer["pid"]) for writer in writers}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def invocation() -> str:
    """Return the id that all stages of one `dvc repro` share, for the parent run in MLflow."""
    owner = find_owner() or Owner.of(os.getpid())
    # All stages below one `dvc` compute the same text, and so the same id
    name = f"{platform.node()} {owner.pid}-{owner.created}"
    return sha256(name.encode()).hexdigest()[:32]


def sessions() -> Path:
    """Return the folder of session files, created on first use."""
    switch_offline()
    folder = Path(os.environ["PREFECT_HOME"]) / "sessions"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def standing() -> str | None:
    """Return the address of the standing server of this folder, while its process runs."""
    try:
        state = json.loads((sessions() / STANDING).read_text())
        server = Owner(state["pid"], str(state["created"]))
    except (OSError, ValueError, KeyError):
        return None
    return str(state["api_url"]) if server.is_alive else None


@contextlib.contextmanager
def connected(*, is_outlived: bool = True) -> Iterator[None]:
    """Begin the block when the server of PREFECT_API_URL answers. At its end all logs and events of
    Prefect are sent.

    Args:
        is_outlived: whether the run goes on without the server once that is gone, see `_outlive`.
            A run that needs the server waits for it.

    Raises:
        ConnectionError: nobody answers there; a standing server has `START_SECONDS` to start.
            Or it does not answer any more.
    """
    url = os.environ[API_URL]
    limit = time.monotonic() + START_SECONDS
    while not answers(f"{url}/health"):
        if url != standing() or time.monotonic() > limit:
            raise ConnectionError(
                f"no Prefect server answers at {url}, the address of {API_URL}; start it (`make "
                "ui` starts one for this folder), or unset the variable"
            )
        time.sleep(0.1)
    has_ended = threading.Event()
    if is_outlived:
        threading.Thread(target=_outlive, args=(url, has_ended), daemon=True).start()
    try:
        yield
    except Exception as error:
        if _is_unanswered(error):
            raise ConnectionError(
                f"the Prefect server at {url} does not answer any more: {error}; start it, and the "
                "same command goes on"
            ) from error
        raise
    finally:
        has_ended.set()  # what is done must not start again when the server goes
        _send_the_rest()


def _is_unanswered(error: Exception) -> bool:
    """Whether Prefect's client gave up on its server."""
    httpx = sys.modules.get("httpx")
    return httpx is not None and isinstance(error, httpx.TransportError)


def answers(url: str) -> bool:
    """Whether a server answers at an address, with whatever code."""
    # A proxy of the environment must not be asked for this machine's own servers
    is_near = urllib.parse.urlsplit(url).hostname in LOOPBACK
    proxies = urllib.request.ProxyHandler({} if is_near else None)
    try:
        urllib.request.build_opener(proxies).open(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _send_the_rest() -> None:
    """Send the logs and events of Prefect that wait, so that none waits for a server at exit."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=GONE_SECONDS)


def _outlive(url: str, has_ended: threading.Event) -> None:
    """Start this command again without Prefect once its server is gone: its client would wait for
    it for ever. What is made is found, and what was begun goes on from its checkpoint.
    """
    place, since = urllib.parse.urlsplit(url), time.monotonic()
    # A server that restarts refuses for a moment: it is gone when it has refused for a while
    while time.monotonic() - since < GONE_SECONDS:
        if has_ended.wait(POLL_SECONDS):
            return
        # A server that is slow is there: the count begins anew
        if not is_refused(place):
            since = time.monotonic()
    print(f"the Prefect server at {url} is gone; going on without it", file=sys.stderr, flush=True)
    del os.environ[API_URL]
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_refused(place: urllib.parse.SplitResult) -> bool:
    """Whether nobody listens at an address; a server that is slow does."""
    port = place.port or {"http": 80, "https": 443}[place.scheme]
    try:
        socket.create_connection((place.hostname, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


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


def _follow(owner: Owner | None) -> None:
    """Interrupt this process when its owner is gone: nobody would record its outputs."""
    while owner and owner.is_alive:
        time.sleep(POLL_SECONDS)
    interrupt()


def interrupt() -> None:
    """Interrupt this process from a thread, and end it where that does not help."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(END_SECONDS)
    os._exit(130)
