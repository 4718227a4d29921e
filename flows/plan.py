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
from pathlib import Path
from typing import Any

from flows import cli
from flows.services import session
from tasks.settings import params
from tasks.stages import STAGES

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
HEADINGS = ("stage", "to make", "seconds", "host memory", "GPU memory", "disk")
ON_TOP = (
    "starting Python, Prefect and MLflow, and verifying what is there, come on top (10 to 60 s a "
    "run)"
)


def main(settings: Sequence[str], *, is_json: bool) -> None:
    """Print the plan of a profile, and exit: 0 done, 2 a wrong input, 130 interrupted."""
    cli.guarded(lambda: _print(settings, is_json))


def show(plan: Any, *, is_json: bool) -> None:
    """Print a `Plan` as a table, one line a stage and one a distilled set, or as JSON."""
    from tasks.planning import plan as planning

    if is_json:
        print(json.dumps(_as_json(plan), indent=1))
        return
    rows: list[tuple[str, ...]] = [HEADINGS]
    for stage in STAGES:
        rows.append(_row(stage, planning.counts(plan, stage), planning.total(plan.of(stage))))
        if stage == "distill":
            rows += [
                _row(f"  {e.cell.name}", (int(not e.cell.is_cached), 1), e.usage)
                for e in plan.of(stage)
            ]
    numbers = [planning.counts(plan, stage) for stage in STAGES]
    rows.append(
        _row(
            "total",
            (sum(n for n, _ in numbers), sum(n for _, n in numbers)),
            planning.total(plan.entries),
        )
    )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        print(
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
                ]
            )
        )
    for note in (*_reasons(plan), *plan.notes, ON_TOP):
        print(f"* {note}")


def _reasons(plan: Any) -> list[str]:
    """Return why artifacts that are there would be made again."""
    from tasks.store import reasons

    return [
        f"{entry.cell.stage}: {entry.cell.name} would be made, because {entry.cell.because}"
        for entry in plan.entries
        if entry.cell.because not in (None, reasons.ABSENT)
    ]


def _print(settings: Sequence[str], is_json: bool) -> None:
    session.switch_offline()
    chosen = params.load(settings)
    from tasks.planning import plan as planning

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vl-distillery-plan-") as folder:
        plan = planning.make_plan(chosen, Path(folder))
    logging.getLogger("vl_distillery").info("measured in %.0f s", time.monotonic() - started)
    show(plan, is_json=is_json)


def _row(name: str, numbers: tuple[int, int], usage: Any) -> tuple[str, ...]:
    made, in_all = numbers
    if made == 0:
        return (name, "cached", "0", "-", "-", "-")
    memory = [
        _bytes(number) if number else "-"
        for number in (usage.host_bytes, usage.gpu_bytes, usage.disk_bytes)
    ]
    return (
        name,
        f"{made} of {in_all}",
        f"{usage.seconds:.1f}" if usage.seconds < 100 else f"{usage.seconds:.0f}",
        *memory,
    )


def _bytes(number: int) -> str:
    for unit, name in UNITS:
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} B"


def _as_json(plan: Any) -> dict[str, Any]:
    from dataclasses import asdict

    cells = [{**asdict(entry.cell), **asdict(entry.usage)} for entry in plan.entries]
    return {"profile": plan.profile, "notes": plan.notes, "load": plan.load, "cells": cells}


if __name__ == "__main__":
    cli.main("plan")
