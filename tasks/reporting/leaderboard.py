"""The leaderboard of a sweep: `reports/<profile>/sweeps/<name>.csv`, `.md` and `.html`.

Cells are sorted by validation recall, with the test recall beside it: who picks the best cell picks
it without the test split. Imports no PyTorch and no pandas, since the parent of a sweep is light.
Same scores and the same server of MLflow, same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.evaluation import metrics
from tasks.reporting.rendering import environment, write_all
from tasks.settings.overrides import word_of

DONE, PRUNED, OPEN, FAILED = "done", "pruned", "open", "failed"
VALUES = (
    "n",
    "val",
    "val_std",
    *(name for metric in metrics.NAMES for name in (metric, f"{metric}_std")),
    "recovery",
    "over_random",
    "over_equal_bytes",
    "seconds",
    "set_bytes",
)


@dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        swept: what tells it from the others, {section.key: value}.
        state: `DONE`, `PRUNED`, `FAILED`, or `OPEN` until it has ended.
        scores: see `cell_scores.of_cell`; of a pruned cell `val` alone.
        reason: why it failed.
        page: where MLflow shows it; None where it has no server, or has not heard of it.
        lost: why its first try ended, where its process was lost and it was tried once more.
    """

    name: str
    id: str
    swept: Mapping[str, Any]
    state: str = OPEN
    scores: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    page: str | None = None
    lost: str | None = None


@dataclass(frozen=True)
class Leaderboard:
    """The cells of a sweep.

    Attributes:
        command: what finds the best cell again; None while there is none.
        facts: shown below, {name: text}.
        page: where MLflow shows all its cells.
    """

    name: str
    profile: str
    rows: list[Row]
    command: str | None
    facts: dict[str, str]
    page: str | None = None

    @property
    def has_equal_bytes(self) -> bool:
        """Whether a cell was compared with random pairs of its bytes."""
        return any(row.scores.get("over_equal_bytes") is not None for row in self.rows)

    @property
    def ranked(self) -> list[Row]:
        """All cells, the best first, and those without scores last."""
        order = (DONE, PRUNED, OPEN, FAILED)
        return sorted(
            self.rows,
            key=lambda row: (order.index(row.state), -row.scores.get("val", 0.0), row.name),
        )


def best_of(rows: list[Row]) -> Row | None:
    """Return the cell with the highest mean validation recall; of equals the first by name."""
    done = [row for row in rows if row.state == DONE]
    return min(done, key=lambda row: (-row.scores["val"], row.name), default=None)


def markdown(board: Leaderboard) -> str:
    """Return the leaderboard as Markdown."""
    return environment().get_template("leaderboard.md.j2").render(board=board)


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """Write the three files below `folder`, each whole or not at all; returns their paths."""
    page = environment().get_template("leaderboard.html.j2").render(board=board)
    texts = {"csv": _csv(board), "md": markdown(board), "html": page}
    return write_all(folder, board.name, texts)


def _csv(board: Leaderboard) -> str:
    swept = list(dict.fromkeys(name for row in board.rows for name in row.swept))
    output = io.StringIO()
    table = csv.writer(output, lineterminator="\n")
    table.writerow(["cell", "id", "state", *swept, *VALUES, "reason", "lost", "page"])
    for row in board.ranked:
        own = [word_of(row.swept[name]) if name in row.swept else "" for name in swept]
        values = [_number(row.scores.get(name)) for name in VALUES]
        told = [row.reason or "", row.lost or "", row.page or ""]
        table.writerow([row.name, row.id, row.state, *own, *values, *told])
    return output.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
