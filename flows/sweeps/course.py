"""The course of one sweep, as its parent sees it: a plan, what cells share, the cells, and after
each of them the leaderboard.

Imports no PyTorch: whatever needs it is a unit that a worker makes.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.sweeps import loop
from flows.sweeps.record import Record
from flows.sweeps.sources import Source
from flows.sweeps.units import PLAN, Outcome, Pool, Unit
from tasks import stages
from tasks.reporting import leaderboard
from tasks.reporting.leaderboard import DONE, FAILED, PRUNED, Leaderboard, Row
from tasks.settings.space import Cell

LOGGER = logging.getLogger("vl_distillery")
WRITE_SECONDS = 5.0  # between two leaderboards of a sweep that goes on


@dataclass(frozen=True)
class Told:
    """What a sweep was told.

    Attributes:
        settings: the user's own, which come before those of a cell.
        forced_at: time before which what was distilled and scored is made again; None: it is kept.
        checked: further settings that are checked before anything starts, and are no cells.
        planned: cells whose shared artifacts are made first; they are those of the source, or of a
            search the one that all its cells share with.
    """

    settings: Sequence[str]
    forced_at: float | None
    accept_code: bool
    checked: Sequence[Sequence[str]]
    planned: Sequence[Cell]


class Course:
    """One sweep under way."""

    def __init__(self, record: Record, told: Told, source: Source, pool: Pool) -> None:
        self.record, self.told, self.source, self.pool = record, told, source, pool
        self.cells: dict[str, Cell] = {}
        self.rows: dict[str, Row] = {}
        self.refs: dict[str, bool] = {}
        self.needs: tuple[str, ...] = ()
        self.written = 0.0
        self.page: str | None = None

    def run(self, publish: Callable[[Leaderboard], None]) -> Leaderboard:
        """Make the sweep, and return its leaderboard.

        Args:
            publish: is given each leaderboard that is written.

        Raises:
            ValueError: the space or a cell is not valid; nothing has been made then.
        """
        self.publish = publish
        cells = [
            {"id": cell.id, "name": cell.name, **self._part(cell)} for cell in self.told.planned
        ]
        how = {"forced_at": self.told.forced_at, "accept_code": self.told.accept_code}
        words = {"settings": self.told.settings, "cells": cells, "checked": self.told.checked}
        request = {"kind": PLAN, **words, **how}
        LOGGER.info("checking %d cells", len(cells))
        loop.run([Unit(PLAN, PLAN, "plan", request)], self.pool, self._heard)
        return self._write(is_last=True)

    def board(self) -> Leaderboard:
        """Return the leaderboard as it is now."""
        rows, record = list(self.rows.values()), self.record
        best = leaderboard.best_of(rows)
        counts = {
            state: sum(row.state == state for row in rows) for state in (DONE, PRUNED, FAILED)
        }
        facts = {
            "profile": record.profile,
            "cells": ", ".join(f"{number} {state}" for state, number in counts.items() if number),
            "devices": ", ".join(
                sorted({row.scores["device"] for row in rows if "device" in row.scores})
            ),
            "MLflow": self.page or f"the run of the dataset that ends with `sweep {record.name}`",
        }
        command = None if best is None else self.command(self.cells[best.id])
        return Leaderboard(record.name, record.profile, rows, command, facts, self.page)

    def command(self, cell: Cell) -> str:
        """Return the command that finds what a cell made."""
        words = [f"--set {shlex.quote(one)}" for one in (*self.told.settings, cell.variant)]
        return f"vl-distillery evaluate {' '.join(words)}"

    def _heard(self, unit: Unit, outcome: Outcome) -> list[Unit]:
        for path, is_cached in outcome.value.get("refs", ()):
            self.refs.setdefault(path, is_cached)
        if unit.kind == "plan":
            if outcome.reason is not None:
                raise ValueError(outcome.reason)
            return self._planned(outcome)
        if unit.kind == "shared":
            LOGGER.info("%s: %s", unit.name, outcome.reason or "made")
            return []
        return self._ended(self.cells[unit.id], outcome)

    def _planned(self, outcome: Outcome) -> list[Unit]:
        """Return what is to be made: what cells share first, then the cells that are not there."""
        shared = [
            Unit(key, one["name"], "shared", one["request"], tuple(one["needs"]))
            for key, one in outcome.value["shared"].items()
        ]
        self.needs = tuple(outcome.value["shared"])
        plans, units = outcome.value["cells"], []
        for cell in self.source.first(self.pool.size):
            needs = plans[cell.id]["needs"] if cell.id in plans else self.needs
            units.append(self._unit(cell, needs))
        self._save()
        missing = []
        for unit in units:
            answer = plans[unit.id]["answer"] if unit.id in plans else None
            if answer is None:
                missing.append(unit)
            else:
                missing += self._heard(unit, Outcome(value=answer))
        return shared + missing

    def _ended(self, cell: Cell, outcome: Outcome) -> list[Unit]:
        state, scores = FAILED, {}
        pages: Mapping[str, str] = {}
        if outcome.reason is None:
            state = PRUNED if outcome.value["is_pruned"] else DONE
            scores = outcome.value["scores"]
            pages = outcome.value.get("pages", pages)
        self.page = pages.get("sweep") or self.page
        row = replace(
            self.rows[cell.id],
            state=state,
            scores=scores,
            reason=outcome.reason,
            page=pages.get("cell"),
            lost=outcome.lost,
        )
        self.rows[cell.id] = row
        further = [self._unit(one, self.needs) for one in self.source.after(cell, state, scores)]
        self._say(row)
        self._write()
        return further

    def _unit(self, cell: Cell, needs: Sequence[str]) -> Unit:
        """Return the unit of a cell, which has a row from now on."""
        self.cells[cell.id] = cell
        self.rows[cell.id] = Row(cell.name, cell.id, cell.swept)
        request = {**self._part(cell)["request"], "below": self.source.below(cell)}
        return Unit(cell.id, cell.name, "cell", request, tuple(needs))

    def _part(self, cell: Cell) -> dict[str, Any]:
        """Return the request of a cell, before its source is asked about it."""
        record = self.record
        request = {
            "kind": "cell",
            "settings": [*self.told.settings, cell.variant],
            "sweep": {"profile": record.profile, "sweep": record.name, "cell": cell.name},
            "swept": cell.swept,
            "below": None,
            "forced_at": self.told.forced_at,
            "accept_code": self.told.accept_code,
        }
        return {"request": request}

    def _say(self, row: Row) -> None:
        ended = sum(one.state in (DONE, PRUNED, FAILED) for one in self.rows.values())
        told = row.reason or f"{row.scores['val']:.1f} % validation recall"
        LOGGER.info("%d of %d: %s %s: %s", ended, len(self.rows), row.name, row.state, told)

    def _write(self, *, is_last: bool = False) -> Leaderboard:
        self._save()
        board = self.board()
        if is_last or time.monotonic() - self.written > WRITE_SECONDS:
            leaderboard.write(board, stages.REPORTS / self.record.profile / "sweeps")
            self.publish(board)
            self.written = time.monotonic()
        return board

    def _save(self) -> None:
        self.record.rows = list(self.rows.values())
        self.record.save()
