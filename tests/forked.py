"""A flow of a workspace in a fork of one process that has the libraries imported: seconds less a
command. It runs the workspace's own code as `python -m flows.cli` does.
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


def run_flow(
    folder: Path, name: str, options: tuple[str, ...], env: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a flow in a folder with an environment, and return it with its output."""
    start(env)
    with tempfile.TemporaryDirectory(prefix="vl-distillery-output-") as place:
        streams = [Path(place) / "stdout", Path(place) / "stderr"]
        child = CONTEXT.Process(target=_become, args=(folder, name, options, env, streams))
        child.start()
        child.join(seconds)
        if child.is_alive():
            child.kill()
            child.join()
            raise AssertionError(f"{name} took more than {seconds} s:\n{streams[1].read_text()}")
        texts = [stream.read_text() if stream.exists() else "" for stream in streams]
    return subprocess.CompletedProcess((name, *options), child.exitcode, *texts)


def start(env: dict[str, str]) -> None:
    """Start the process that forks, once, with the environment that libraries read at import."""
    CONTEXT.set_forkserver_preload(list(LIBRARIES))
    kept = dict(os.environ)
    os.environ.update(env)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _become(
    folder: Path, name: str, options: tuple[str, ...], env: dict[str, str], streams: list[Path]
) -> None:
    stand(folder, env, streams)
    sys.path.insert(0, str(folder))
    from flows.cli import main

    main(name, options)


def stand(folder: Path, env: dict[str, str], streams: list[Path]) -> None:
    """Give this process a folder, an environment, and files for what it writes."""
    for number, stream in enumerate(streams, start=1):
        handle = os.open(stream, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
