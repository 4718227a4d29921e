"""The leaderboard of a sweep: `reports/<profile>/sweeps/<name>.csv`, `.md` and `.html`.

Cells are sorted by validation recall, with the test recall beside it: so the best cell is picked
without the test split. Imports no PyTorch and no pandas, since the parent of a sweep is light. The
same scores and the same server of MLflow give the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.beside import COMPARED
from tasks.core.evaluation import measures, metrics
from tasks.core.evaluation.statistics import Statistics
from tasks.reporting.rendering import environment, write_all
from tasks.reporting.text_tables import Table, between, spread
from tasks.settings.overrides import word_of

DONE, PRUNED, OPEN, FAILED = "done", "pruned", "open", "failed"
VALUES = (
    "n",
    "val",
    "val_std",
    *(name for metric in metrics.NAMES for name in (metric, f"{metric}_std")),
    *COMPARED,
    "seconds",
    "set_bytes",
    "loss",
)
SEED, MEAN = "seed", "mean_recall"


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
        command: makes or finds the best cell again; None while no cell is done.
        facts: shown below, {name: text}.
        page: where MLflow shows all its cells.
    """

    name: str
    profile: str
    rows: list[Row]
    command: str | None
    facts: dict[str, str]
    page: str | None = None

    def has(self, name: str) -> bool:
        """Whether a cell has this one of `VALUES`."""
        return any(row.scores.get(name) is not None for row in self.rows)

    @property
    def ranked(self) -> list[Row]:
        """All cells, the best first, and those without scores last."""
        order = (DONE, PRUNED, OPEN, FAILED)
        # By state first: `val` of a pruned cell is that of one student, and no mean of all. By name
        # last, so that equals keep one order.
        return sorted(
            self.rows,
            key=lambda row: (order.index(row.state), -row.scores.get("val", 0.0), row.name),
        )


@dataclass(frozen=True)
class OverSets:
    """Cells that differ in their seed alone: several sets of one method."""

    name: str
    spread: measures.Spread


def over_sets(board: Leaderboard) -> list[OverSets]:
    """Return the spread of test recall over sets, where a sweep varies the seed."""
    groups: dict[str, list[Statistics]] = {}
    for row in board.rows:
        if row.state == DONE and SEED in row.swept:
            scores = row.scores
            found = Statistics(scores["n"], scores[MEAN], scores[f"{MEAN}_std"], None)
            groups.setdefault(_named(row, lambda key: key != SEED), []).append(found)
    return [OverSets(name, measures.spread(sets)) for name, sets in groups.items() if len(sets) > 1]


def correlations(board: Leaderboard) -> dict[str, float]:
    """Return DCS, the rank correlation of loss and test recall, by method and size.

    Left out are those with too few finished sets, see `measures.MIN_SETS`.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in board.rows:
        if row.state == DONE and "loss" in row.scores:
            name = _named(row, ("methods", "budgets").__contains__)
            groups.setdefault(name, []).append((row.scores["loss"], row.scores[MEAN]))
    found = {}
    for name, pairs in groups.items():
        value = measures.loss_correlation(*zip(*pairs, strict=True))
        if value is not None:
            found[name] = value
    return found


def _named(row: Row, is_told: Callable[[str], bool]) -> str:
    told = [f"{key}={word_of(value)}" for key, value in row.swept.items() if is_told(key)]
    return " ".join(told) or "all cells"


def best_of(rows: list[Row]) -> Row | None:
    """Return the cell with the highest mean validation recall; of equals the first by name."""
    done = [row for row in rows if row.state == DONE]
    return min(done, key=lambda row: (-row.scores["val"], row.name), default=None)


def markdown(board: Leaderboard) -> str:
    """Return the leaderboard as Markdown."""
    return environment().get_template("leaderboard.md.j2").render(_shown(board))


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """Write the three files below `folder`, each whole or not at all; returns their paths."""
    page = environment().get_template("leaderboard.html.j2").render(_shown(board))
    texts = {"csv": _csv(board), "md": markdown(board), "html": page}
    return write_all(folder, board.name, texts)


def _shown(board: Leaderboard) -> dict[str, Any]:
    tables = [table for table in (_sets_table(board), _loss_table(board)) if table.rows]
    return {"board": board, "further": tables}


def _sets_table(board: Leaderboard) -> Table:
    rows = []
    for one in over_sets(board):
        sets, within = one.spread.sets, one.spread.over_students
        assert sets.interval is not None, "there are two sets at least"
        students = "" if within is None else f"{within:.2f}"
        told = (f"{sets.n}", spread(sets.mean, sets.deviation, 2), students)
        rows.append((one.name, *told, between(sets.interval, 1)))
    columns = ("cells", "sets", "mean recall +- over sets", "over students", "95 % over sets")
    caption = (
        "Cells that differ in their seed alone are sets of one kind: mean test recall with the "
        "deviation over their means, the deviation over students of one set (pooled), and the "
        "interval of the mean over sets."
    )
    return Table(caption, columns, tuple(rows))


def _loss_table(board: Leaderboard) -> Table:
    rows = [(name, f"{value:.2f}") for name, value in correlations(board).items()]
    caption = (
        "DCS: Spearman's correlation of the distillation loss, at its end, with test recall over "
        f"at least {measures.MIN_SETS} sets of one method and size. -1: a smaller loss is a better "
        "set."
    )
    return Table(caption, ("sets", "DCS"), tuple(rows))


def _csv(board: Leaderboard) -> str:
    # Cells of a list may set different parameters: each gets a column, in the order of first use
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
