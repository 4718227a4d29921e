"""Seconds that a cell takes beyond its own work: 20 tiny cells by a sweep with two processes,
beside a loop over the same cells in one process. Target: 15 s.
`python -m tests.benchmarks.sweep_overhead`
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

from tests.workspace import TINY, Workspace, make_workspace

CELLS, WORKERS, TARGET = 20, 2, 15.0
RATES = [round(0.001 * (place + 1), 3) for place in range(CELLS)]
# One process, no server: what each of its arguments sets is distilled and scored
LOOP = """
import sys
from flows.distill import distill
from flows.evaluate import evaluate
from flows.select_coresets import select_coresets
from flows.train_experts import train_experts
for cell in sys.argv[1:]:
    settings = [cell]
    refs = select_coresets.fn(settings, refs=train_experts.fn(settings))
    evaluate.fn(settings, refs=distill.fn(settings, refs=refs))
"""


def main() -> None:
    """Print the seconds of both, and stop where a cell of the sweep takes more than the target."""
    with tempfile.TemporaryDirectory() as place:
        looped = make_workspace(Path(place) / "loop", (*TINY, "methods.coresets=[random]"))
        looped.run("python", "-m", "flows.cli", "train_experts", seconds=600)
        swept = Workspace(Path(place) / "sweep")
        shutil.copytree(looped.folder, swept.folder)
        cells = [f"variant={{distill.matching.lr_img: {rate}}}" for rate in RATES]
        loop = seconds(looped, "python", "-c", LOOP, *cells)
        grid = f"sweep.grid={{distill.matching.lr_img: {RATES}}}"
        command = ("python", "-m", "flows.cli", "distill_sweep", "--workers", str(WORKERS))
        sweep = seconds(swept, *command, "--set", grid)
        same = {path: text for path, text in looped.digests().items() if path in swept.digests()}
        if same != swept.digests():
            raise SystemExit("the sweep and the loop made different artifacts")
        for name, wall, workers, folder in (
            ("loop, 1 process", loop, 1, looped),
            (f"sweep, {WORKERS} processes", sweep, WORKERS, swept),
        ):
            own = own_seconds(folder)
            beyond = (wall * workers - own) / CELLS
            print(
                f"{name:20} {wall:6.1f} s, own work {own:6.1f} s, {beyond:5.2f} s a cell beyond it"
            )
        if beyond > TARGET:
            raise SystemExit(
                f"a cell takes {beyond:.1f} s beyond its work, the target is {TARGET} s"
            )


def seconds(workspace: Workspace, *command: str) -> float:
    """Return for how long a command runs."""
    started = time.perf_counter()
    workspace.run(*command, seconds=1200)
    return time.perf_counter() - started


def own_seconds(workspace: Workspace) -> float:
    """Return the seconds in the manifests of sets, coresets and scores."""
    found = [
        json.loads(path.read_text())["facts"]["seconds"]
        for stage in ("coresets", "distilled", "scores")
        for path in workspace.folder.glob(f"data/{stage}/**/manifest.json")
    ]
    return float(sum(found))


if __name__ == "__main__":
    main()
