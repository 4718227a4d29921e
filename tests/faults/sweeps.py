"""Sweeps of two small cells by worker processes of this machine, and what is seen of them from
outside.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from tests.workspace import TINY, Workspace, environment, make_workspace

COMMAND = ("python", "-m", "flows.cli", "distill_sweep")
GRID = "sweep.grid={distill.matching.lr_img: [0.01, 0.02]}"
LONGER = ("distill.matching.iterations=12", "distill.matching.checkpoint_every=2")
SETTINGS = (*TINY, *LONGER, "methods.coresets=[random]", GRID)
GONE_SECONDS = 60
END_SECONDS = 400  # of a sweep, on a machine that has much else to do


def undisturbed(folder: Path) -> Workspace:
    """Return a workspace in which the sweep has run, in one process."""
    workspace = make_workspace(folder, SETTINGS)
    workspace.flow("distill_sweep", seconds=END_SECONDS)
    return workspace


def without_cells(made: Workspace, folder: Path) -> Workspace:
    """Return a copy that has what cells share, and none of the cells."""
    shutil.copytree(made.folder, folder)
    for name in ("data/distilled", "data/scores", "data/sweeps", ".mlflow"):
        shutil.rmtree(folder / name)
    return Workspace(folder)


def start(workspace: Workspace, *options: str, **env: str) -> subprocess.Popen[str]:
    """Start a sweep."""
    return subprocess.Popen(
        (*COMMAND, *options),
        cwd=workspace.folder,
        env={**environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(sweep: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a sweep that ends with a code; return what it said."""
    output = sweep.communicate(timeout=END_SECONDS)[0]
    assert sweep.returncode == code, output
    return output


def wait_for(is_so, what: str, seconds: float = GONE_SECONDS) -> None:
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def checkpoints(workspace: Workspace) -> list[Path]:
    return list(workspace.folder.glob("data/.work/*/.checkpoint.safetensors"))


def wait_for_cells(workspace: Workspace, sweep: subprocess.Popen[str]) -> None:
    """Wait until a cell is under way."""
    wait_for(lambda: checkpoints(workspace) or sweep.poll() is not None, "no cell began", 300)
    assert sweep.poll() is None


def num_done(workspace: Workspace, name: str) -> int:
    """Return how many cells of a sweep are done."""
    path = workspace.folder / f"data/sweeps/toy/{name}/sweep.json"
    if not path.exists():
        return 0
    return sum(row["state"] == "done" for row in json.loads(path.read_text())["rows"])


def processes(workspace: Workspace) -> list[psutil.Process]:
    """Return the processes that run in a workspace."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(workspace.folder):
            found.append(process)
    return found


def half_written(workspace: Workspace) -> list[Path]:
    """Return the files that stand for nothing whole: no manifest names them, and they are neither a
    checkpoint nor the sweep's own.
    """
    data = workspace.folder / "data"
    named = {manifest for manifest in data.rglob("manifest.json") if ".work" not in manifest.parts}
    for manifest in tuple(named):
        files = json.loads(manifest.read_text())["files"]
        named |= {manifest.parent / name for name in files}
    own = (".locks", ".checked", "sweeps")
    return [
        path
        for path in data.rglob("*")
        if path.is_file()
        and path not in named
        and path.relative_to(data).parts[0] not in own
        and not path.name.startswith(".checkpoint")
    ]
