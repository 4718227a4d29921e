"""plan: before a run, what each stage of a profile will take. `vl-distillery plan [--profile
NAME] [--set ...] [--json]`.

No flow of Prefect: nothing is made, and no server is started. `tasks/planning/` measures.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import cli
from flows.services import session
from tasks import preflight
from tasks.planning.inventory import Entry
from tasks.planning.plan import Plan, make_plan, total
from tasks.settings import params
from tasks.stages import LAST, STAGES
from tasks.store import reasons

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
HEADINGS = ("stage", "to make", "seconds", "host memory", "GPU memory", "disk")
ON_TOP = (
    "starting Python, Prefect and MLflow, and verifying what is there, come on top (10 to 60 s a "
    "run)"
)


def main(settings: Sequence[str], *, is_json: bool) -> None:
    """Print the plan of a profile, and exit: 0 done, 2 a wrong input, 130 interrupted."""
    cli.guarded(lambda: _print(settings, is_json), interrupted=cli.BEGINS_AGAIN)


def show(plan: Plan, *, is_json: bool) -> None:
    """Print a `Plan` as a table, one line a stage and one a distilled set, or as JSON."""
    if is_json:
        print(json.dumps(_as_json(plan), indent=1))
        return
    rows: list[tuple[str, ...]] = [HEADINGS]
    for stage in STAGES:
        rows.append(_row(stage, plan.of(stage)))
        if stage == "distill":
            rows += [_row(f"  {entry.cell.name}", [entry]) for entry in plan.of(stage)]
    rows.append(_row("total", plan.entries))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *aligned]))
    for note in (*_reasons(plan), *plan.notes, ON_TOP):
        print(f"* {note}")


def _reasons(plan: Plan) -> list[str]:
    """Return why artifacts that are there would be made again."""
    return [
        f"{entry.cell.stage}: {entry.cell.name} would be made, because {entry.because}"
        for entry in plan.entries
        if entry.because not in (None, reasons.ABSENT)
    ]


def _print(settings: Sequence[str], is_json: bool) -> None:
    session.switch_offline()
    chosen = params.load(settings)
    # Networks are measured with random weights
    preflight.check(chosen, LAST, with_weights=False)
    started = time.monotonic()
    # Measurements run the stages for real, in a folder that goes with them
    with tempfile.TemporaryDirectory(prefix="vl-distillery-plan-") as folder:
        plan = make_plan(chosen, Path(folder))
    logging.getLogger("vl_distillery").info("measured in %.0f s", time.monotonic() - started)
    show(plan, is_json=is_json)


def _row(name: str, entries: list[Entry]) -> tuple[str, ...]:
    made = sum(entry.ref is None for entry in entries)
    if made == 0:
        return (name, "cached", "0", "-", "-", "-")
    usage = total(entries)
    seconds = f"{usage.seconds:.1f}" if usage.seconds < 100 else f"{usage.seconds:.0f}"
    numbers = (usage.host_bytes, usage.gpu_bytes, usage.disk_bytes)
    return (name, f"{made} of {len(entries)}", seconds, *map(_bytes, numbers))


def _bytes(number: int) -> str:
    if number == 0:
        return "-"
    for unit, name in UNITS:
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} B"


def _as_json(plan: Plan) -> dict[str, Any]:
    cells = []
    for entry in plan.entries:
        cell = {name: getattr(entry.cell, name) for name in ("stage", "name", "kind", "student")}
        told = {"is_cached": entry.ref is not None, "because": entry.because}
        cells.append({**cell, **told, **asdict(entry.usage)})
    return {"profile": plan.profile, "notes": plan.notes, "load": plan.load, "cells": cells}


if __name__ == "__main__":
    cli.main("plan")
