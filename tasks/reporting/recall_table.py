"""Summary rows arranged for the page: groups by size, cells with their spread, the best of each
column marked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.core.evaluation.metrics import BY_NAME, Metric
from tasks.reporting.published import budget_of, same_budget
from tasks.reporting.tables import FULL, METRICS


@dataclass(frozen=True)
class Cell:
    """One number; NaN is shown as a dash. `is_best` marks the highest of its column among the
    methods of one size.
    """

    value: float
    std: float = math.nan
    is_best: bool = False


@dataclass(frozen=True)
class Row:
    """One method. `cells` follow `METRICS`; `source` is empty for our own numbers."""

    method: str
    n: int
    cells: tuple[Cell, ...]
    recovery: Cell
    over_random: Cell
    is_distilled: bool = False
    source: str = ""
    protocol: str = ""

    def of(self, metric: Metric) -> Cell:
        """Return the cell of a metric."""
        return self.cells[METRICS.index(metric.name)]


@dataclass(frozen=True)
class Group:
    """All methods of one size. `share` is its fraction of the full training set, NaN if unknown."""

    title: str
    rows: tuple[Row, ...]
    share: float = math.nan


@dataclass(frozen=True)
class Crossing:
    """The same sets under several students or protocols. Each row is a set's name and, for each of
    `columns`, a `Crossed`.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Crossed, ...]], ...]


@dataclass(frozen=True)
class Crossed:
    """A set under one student or protocol; what was not trained, or has no reference, is NaN."""

    recall: Cell
    over_random: Cell
    recovery: Cell


def groups_by_size(shown: pd.DataFrame, distilled: frozenset[str]) -> list[Group]:
    """Return the paper's table from ordered summary rows of one student and protocol; full data is
    the last group, never marked.

    A column `label`, where there is one, names the rows in place of `method`.
    """
    full = shown.loc[shown["method"] == FULL, "num_pairs"]
    total = int(full.iloc[0]) if len(full) else 0
    groups = []
    for (is_full, num_pairs), rows in shown.groupby(
        [shown["method"] == FULL, "num_pairs"], sort=True
    ):
        best = (
            {}
            if is_full
            else {
                name: _displayed(name, rows[name]).max()
                for name in (*METRICS, "recovery", "over_random")
            }
        )
        made = tuple(
            _row(row, best, str(row["set"]) in distilled) for row in rows.to_dict("records")
        )
        share = num_pairs / total if total and not is_full else math.nan
        groups.append(
            Group(f"Full data, {num_pairs} pairs" if is_full else f"{num_pairs} pairs", made, share)
        )
    return groups


def beside_published(
    published: pd.DataFrame, dataset: str, shown: pd.DataFrame, distilled: frozenset[str]
) -> list[Group]:
    """Return, for each of our sizes with published numbers of the same dataset, our rows followed
    by the published ones.
    """
    return beside(same_budget(published, dataset, shown), shown, distilled)


def beside(theirs: pd.DataFrame, shown: pd.DataFrame, distilled: frozenset[str]) -> list[Group]:
    """Return, for each size of the published rows `theirs` (of `same_budget`), our rows followed by
    those.
    """
    groups = []
    for (is_full, num_pairs), rows in shown.groupby(
        [shown["method"] == FULL, "num_pairs"], sort=True
    ):
        matching = theirs[theirs["budget"] == budget_of(FULL if is_full else "", num_pairs)]
        if len(matching):
            ours = [_row(row, {}, str(row["set"]) in distilled) for row in rows.to_dict("records")]
            cited = [_published(row) for row in matching.to_dict("records")]
            groups.append(Group("Full data" if is_full else f"{num_pairs} pairs", (*ours, *cited)))
    return groups


def crossing(summary: pd.DataFrame, axis: str, sets: Sequence[str], first: str) -> Crossing:
    """Return the sets, in the order given, by `axis` ("student" or "protocol"), whose value `first`
    is the first column.
    """
    columns = (first, *sorted(set(summary[axis]) - {first}))
    found = {(row["set"], row[axis]): row for row in summary.to_dict("records")}
    absent = {
        name: math.nan for name in ("mean_recall", "mean_recall_std", "over_random", "recovery")
    }
    return Crossing(
        columns,
        tuple(
            (name, tuple(_crossed(found.get((name, column), absent)) for column in columns))
            for name in sets
        ),
    )


def _crossed(row: Mapping[Any, Any]) -> Crossed:
    return Crossed(
        Cell(row["mean_recall"], row["mean_recall_std"]),
        Cell(row["over_random"]),
        Cell(row["recovery"]),
    )


def _row(row: dict[str, Any], best: dict[str, float], is_distilled: bool) -> Row:
    def cell(name: str, std: float = math.nan) -> Cell:
        is_best = name in best and bool(
            _displayed(name, pd.Series([row[name]])).iloc[0] == best[name]
        )
        return Cell(row[name], std, is_best)

    cells = tuple(cell(name, row[f"{name}_std"]) for name in METRICS)
    over_random = Cell(math.nan) if row["method"] == FULL else cell("over_random")
    name = str(row.get("label", row["method"]))
    return Row(
        name,
        int(row["n"]),
        cells,
        cell("recovery"),
        over_random,
        is_distilled,
        protocol=str(row["protocol"]),
    )


def _published(row: dict[str, Any]) -> Row:
    cells = tuple(Cell(row[name]) for name in METRICS)
    return Row(
        str(row["method"]),
        0,
        cells,
        Cell(math.nan),
        Cell(row["over_random"]),
        source=row["source"],
        protocol=row["protocol"],
    )


def _displayed(name: str, values: pd.Series) -> pd.Series:
    """Return values as the page prints them (recalls to their decimals, ratios to two), so that a
    printed tie is marked as one.
    """
    if name == "recovery":
        return (values * 100).round(1)
    return values.round(2 if name == "over_random" else BY_NAME[name].decimals)
