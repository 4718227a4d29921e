"""200 tiny cells of a sweep over two standing workers of a Prefect pool, logged to a server of
MLflow, beside a loop over some of them without Prefect: seconds a cell beyond its own work, growth
of the parent's memory, and how fast both servers answer meanwhile. Targets: 15 s and 20 MB.
`python -m tests.benchmarks.many_cells [--cells 200] [--looped 40] [--keep FOLDER]`
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tasks.settings import tree
from tasks.settings.space import cells_of, space_of
from tests.benchmarks.standing_pool import Pool, asked_meanwhile, resident_bytes, standing_pool
from tests.benchmarks.sweep_overhead import LOOP, TARGET, own_seconds, seconds
from tests.workspace import TINY, Workspace, environment, make_workspace

WORKERS, NAME = 2, "many"
SETTLED = 5  # cells that have ended when the parent's memory is first read
TARGET_BYTES = 20_000_000
RECORD = Path("data/sweeps/toy") / NAME / "sweep.json"
SETTINGS = (
    *TINY,
    "budgets=[4, 6]",
    "methods.coresets=[random]",
    "methods.distillers=[bi_trajectory]",
    "model.trainable=heads",
    "model.embed_dim=16",
    "distill.matching.iterations=2",
    "evaluate.num_eval=2",
)


def main() -> None:
    """Print what was measured, and stop where it misses a target."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--looped", type=int, default=40, help="cells of the loop")
    parser.add_argument("--keep", type=Path, help="a new folder for all of it; none: a temporary")
    options = parser.parse_args()
    if options.keep:
        _measure(options.keep.resolve(), options.cells, options.looped)
        return
    with tempfile.TemporaryDirectory() as place:
        _measure(Path(place), options.cells, options.looped)


def _measure(place: Path, num_cells: int, num_looped: int) -> None:
    looped = make_workspace(place / "loop", (*SETTINGS, f"sweep={_space(num_cells)}"))
    _commit(looped)
    looped.run("python", "-m", "flows.cli", "train_experts", seconds=600)
    swept = Workspace(place / "sweep")
    shutil.copytree(looped.folder, swept.folder)
    before = _waited_for()
    loop = seconds(looped, "python", "-c", LOOP, *_settings(looped)[:num_looped])
    print(f"loop: {(_waited_for() - before) / num_looped:.2f} processor seconds a cell")
    with standing_pool(swept, WORKERS) as pool:
        questions = pool.questions()
        with asked_meanwhile(questions):
            sweep, sizes = _sweep(swept, pool)
        print(f"sweep: {pool.processor_seconds() / num_cells:.2f} processor seconds a cell")
    _check(looped, swept)
    _tell(f"loop of {num_looped}, 1 process", loop, looped, num_looped)
    beyond = _tell(f"sweep, {WORKERS} workers", sweep * WORKERS, swept, num_cells)
    growth = max(sizes) - sizes[0]
    print(
        f"parent: {sizes[0] / 1e6:.1f} MB after {SETTLED} cells, at most {growth / 1e6:.1f} MB more"
    )
    for server, asked in questions.items():
        print(f"{server}: {asked}")
    print(f"load of the machine: {os.getloadavg()[2]:.1f}")
    if beyond > TARGET or growth > TARGET_BYTES:
        raise SystemExit(
            f"a cell takes {beyond:.1f} s beyond its work and the parent grows by {growth} bytes; "
            f"the targets are {TARGET} s and {TARGET_BYTES} bytes"
        )


def _waited_for() -> float:
    """Return the processor seconds of child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _space(num_cells: int) -> str:
    over = {
        "distill.matching.lr_img": {"low": 0.001, "high": 0.1, "log": True},
        "distill.matching.lr_txt": {"low": 0.001, "high": 0.1, "log": True},
        "distill.matching.syn_steps": [1, 2],
        "budgets": [4, 6],
    }
    return json.dumps({"random": {"count": num_cells, "seed": 0, "over": over}})


def _commit(workspace: Workspace) -> None:
    """Commit the code, so that runs have a source."""
    who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    workspace.run("git", "add", "--all")
    workspace.run("git", *who, "commit", "--quiet", "--message", "benchmark")


def _settings(workspace: Workspace) -> list[str]:
    """Return the setting of each cell of the sweep."""
    os.chdir(workspace.folder)
    raw, _ = tree.overridden([])
    return [cell.variant for cell in cells_of(space_of(raw["sweep"], "sweep"), raw)]


def _sweep(workspace: Workspace, pool: Pool) -> tuple[float, list[int]]:
    """Run the sweep, and return its seconds and the sizes of its parent, one a second."""
    words = ("--name", NAME, "--pool", "cpu", "--workers", str(WORKERS + 1))
    started = time.perf_counter()
    with (workspace.folder.parent / "sweep.log").open("w") as log:
        parent = subprocess.Popen(
            ("python", "-m", "flows.cli", "distill_sweep", *words),
            env={**environment(), **pool.api},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    sizes: list[int] = []
    while parent.poll() is None:
        size = resident_bytes(parent.pid)
        if size and (sizes or _num_ended() >= SETTLED):
            sizes.append(size)
        time.sleep(1.0)
    if parent.returncode:
        raise SystemExit(f"the sweep ended with {parent.returncode}: {log.name}")
    return time.perf_counter() - started, sizes


def _num_ended() -> int:
    if not RECORD.exists():
        return 0
    return sum(row["state"] != "open" for row in json.loads(RECORD.read_text())["rows"])


def _check(looped: Workspace, swept: Workspace) -> None:
    """Stop where an artifact of the loop is not one of the sweep, byte by byte."""
    own, made = looped.digests(), swept.digests()
    differing = [path for path, text in own.items() if made.get(path) != text]
    if differing:
        raise SystemExit(f"the sweep and the loop made different artifacts: {differing}")


def _tell(name: str, worked: float, workspace: Workspace, num_cells: int) -> float:
    """Print and return the seconds of a process that a cell takes beyond its own work."""
    own = own_seconds(workspace)
    beyond = (worked - own) / num_cells
    print(
        f"{name:20} {worked:7.1f} s of processes, own work {own:6.1f} s, "
        f"{beyond:5.2f} s a cell beyond it"
    )
    return beyond


if __name__ == "__main__":
    main()
