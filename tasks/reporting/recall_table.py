"""Summary rows arranged for the page: groups by size, numbers with their spread, the best of each
column marked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.core.evaluation.metrics import BY_NAME
from tasks.reporting.published import budget_of
from tasks.reporting.tables import FULL, METRICS

COLUMNS = (*METRICS, "recovery", "over_random")


@dataclass(frozen=True)
class Number:
    """One number; NaN is shown as a dash. `is_best` marks the highest of its column among the
    methods of one size.
    """

    value: float
    std: float = math.nan
    is_best: bool = False


@dataclass(frozen=True)
class Row:
    """One method. `numbers` has `COLUMNS`; `source` is empty for our own, `n` 0 for others."""

    method: str
    n: int
    numbers: dict[str, Number]
    protocol: str
    source: str
    is_distilled: bool


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

    recall: Number
    over_random: Number
    recovery: Number


def groups_by_size(shown: pd.DataFrame, distilled: frozenset[str]) -> list[Group]:
    """Return the paper's table from ordered summary rows of one student and protocol; full data is
    the last group, never marked.

    A column `label`, where there is one, names the rows in place of `method`.
    """
    is_full = shown["method"] == FULL
    total = shown.loc[is_full, "num_pairs"].max()
    groups = []
    for num_pairs, rows in shown[~is_full].groupby("num_pairs", sort=True):
        best = {name: _displayed(name, rows[name]).max() for name in COLUMNS}
        made = _rows(rows, distilled, best)
        groups.append(Group(f"{num_pairs} pairs", made, num_pairs / total))
    if is_full.any():
        groups.append(Group(f"Full data, {total} pairs", _rows(shown[is_full], distilled)))
    return groups


def beside(theirs: pd.DataFrame, shown: pd.DataFrame, distilled: frozenset[str]) -> list[Group]:
    """Return, for each size of the published rows `theirs` (of `same_budget`), our rows followed by
    those.
    """
    budgets, groups = budget_of(shown), []
    for budget in budgets.drop_duplicates():
        matching = theirs[theirs["budget"] == budget]
        if len(matching):
            title = "Full data" if budget == FULL else f"{budget} pairs"
            ours = _rows(shown[budgets == budget], distilled)
            groups.append(Group(title, ours + _rows(matching, frozenset())))
    return groups


def crossing(summary: pd.DataFrame, axis: str, sets: Sequence[str], first: str) -> Crossing:
    """Return the sets, in the order given, by `axis` ("student" or "protocol"), whose value `first`
    is the first column.
    """
    columns = (first, *sorted(set(summary[axis]) - {first}))
    found = {(row["set"], row[axis]): row for row in summary.to_dict("records")}
    rows = []
    for name in sets:
        crossed = [_crossed(found.get((name, column), {})) for column in columns]
        rows.append((name, tuple(crossed)))
    return Crossing(columns, tuple(rows))


def _crossed(row: dict[Any, Any]) -> Crossed:
    recall = Number(row.get("mean_recall", math.nan), row.get("mean_recall_std", math.nan))
    ratios = [Number(row.get(name, math.nan)) for name in ("over_random", "recovery")]
    return Crossed(recall, *ratios)


def _rows(
    rows: pd.DataFrame, distilled: frozenset[str], best: Mapping[str, float] | None = None
) -> tuple[Row, ...]:
    """Return the rows of a group, ours or published; the numbers that show `best` are marked."""
    # Compared as printed, so that two equal numbers on the page are both marked
    marks = {name: _displayed(name, rows[name]) == value for name, value in (best or {}).items()}
    made = []
    for index, row in rows.iterrows():
        numbers = {}
        for name in COLUMNS:
            is_best = name in marks and bool(marks[name][index])
            spread = row.get(f"{name}_std", math.nan)
            numbers[name] = Number(row.get(name, math.nan), spread, is_best)
        label, source = row.get("label", row["method"]), row.get("source", "")
        is_distilled = row.get("set") in distilled
        one = Row(label, row.get("n", 0), numbers, row["protocol"], source, is_distilled)
        made.append(one)
    return tuple(made)


def _displayed(name: str, values: pd.Series) -> pd.Series:
    """Return values as the page prints them (recalls to their decimals, ratios to two), so that a
    printed tie is marked as one.
    """
    if name == "recovery":
        return (values * 100).round(1)
    return values.round(2 if name == "over_random" else BY_NAME[name].decimals)
