"""A program of a workspace in a fork of one process that has the libraries imported: seconds less
than a process that imports them. It runs the workspace's own code.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

LIBRARIES = (
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
CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED: list[tuple[str, ...]] = []


class RanTooLong(AssertionError):
    """A program was still running when its time was over, and was killed."""


def run_program(
    folder: Path, program: str, arguments: tuple[str, ...], env: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a folder with an environment, as `python -c` does, and return it with its
    output.
    """
    start(env)
    with tempfile.TemporaryDirectory(prefix="vl-distillery-output-") as place:
        streams = [Path(place) / "stdout", Path(place) / "stderr"]
        child = CONTEXT.Process(target=_become, args=(folder, program, arguments, env, streams))
        child.start()
        child.join(seconds)
        if child.is_alive():
            child.kill()
            child.join()
            raise RanTooLong(f"{arguments} took more than {seconds} s:\n{streams[1].read_text()}")
        texts = [stream.read_text() if stream.exists() else "" for stream in streams]
    return subprocess.CompletedProcess(arguments, child.exitcode, *texts)


def start(env: dict[str, str]) -> None:
    """Start the process that forks, once, with the environment that libraries read at import."""
    preload(LIBRARIES)
    kept = dict(os.environ)
    os.environ.update(env)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def preload(modules: tuple[str, ...]) -> None:
    """Let processes be forked from one that has imported `modules`.

    One that imported others ends first: code of this project in it would stand for a copy's.
    """
    if [modules] != _PRELOADED:
        forkserver._forkserver._stop()
        CONTEXT.set_forkserver_preload(list(modules))
        _PRELOADED[:] = [modules]


def _become(
    folder: Path, program: str, arguments: tuple[str, ...], env: dict[str, str], streams: list[Path]
) -> None:
    stand(folder, env, streams)
    sys.path.insert(0, str(folder))
    sys.argv = ["-c", *arguments]
    exec(program, {"__name__": "__main__"})


def stand(folder: Path, env: dict[str, str], streams: list[Path]) -> None:
    """Give this process a folder, an environment, and files for what it writes."""
    for number, stream in enumerate(streams, start=1):
        handle = os.open(stream, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
