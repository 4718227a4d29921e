"""Summary rows arranged for the page: groups by size, numbers with their spread, the best of each
column marked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.core.evaluation.metrics import BY_NAME
from tasks.reporting.published import budget_of
from tasks.reporting.tables import FULL, METRICS, SIZES, is_ceiling, is_of_all
from tasks.settings.sets import EQUAL_BYTES

COLUMNS = (*METRICS, "recovery", "over_random")


@dataclass(frozen=True)
class Number:
    """One number; NaN is shown as a dash. `is_best` marks the highest of its column among the
    methods of one size.
    """

    value: float
    std: float = math.nan
    is_best: bool = False


Numbers = dict[str, Number]  # by `COLUMNS`


@dataclass(frozen=True)
class Row:
    """One method. `source` is empty for our own, `n` 0 for others.

    Attributes:
        sizes: of `tables.SIZES`, NaN where unknown.
    """

    method: str
    n: int
    numbers: Numbers
    protocol: str
    source: str
    is_distilled: bool
    sizes: dict[str, float]


@dataclass(frozen=True)
class Group:
    """All methods of one size. `share` is its fraction of the full training set, NaN if unknown."""

    title: str
    rows: tuple[Row, ...]
    share: float = math.nan


@dataclass(frozen=True)
class Crossing:
    """The same sets under several students or protocols.

    Attributes:
        rows: {set: one `Numbers` for each of `columns`}; NaN where no student was trained, or
            where there is nothing to compare with.
    """

    columns: tuple[str, ...]
    rows: dict[str, list[Numbers]]


def groups_by_size(shown: pd.DataFrame, distilled: frozenset[str]) -> list[Group]:
    """Return the paper's table from ordered summary rows of one student and protocol.

    Full data is the last group. Neither it nor ceilings are marked. A column `label`, where there
    is one, names the rows in place of `method`.
    """
    is_full = is_of_all(shown)
    # NaN where full data was not trained: shares are unknown then
    total = shown.loc[is_full, "num_pairs"].max()
    groups = []
    for num_pairs, rows in shown[~is_full].groupby("num_pairs", sort=True):
        of_size = rows[_is_rival(rows)]
        best = {name: _displayed(name, of_size[name]).max() for name in COLUMNS}
        made = _rows(rows, distilled, best)
        groups.append(Group(f"{num_pairs} pairs", made, num_pairs / total))
    if is_full.any():
        groups.append(Group(f"Full data, {total} pairs", _rows(shown[is_full], distilled)))
    return groups


def beside(theirs: pd.DataFrame, shown: pd.DataFrame, distilled: frozenset[str]) -> list[Group]:
    """Return a group for each of our sizes that somebody published: our rows, then theirs.

    Args:
        theirs: published rows, see `same_budget`.
        shown: our ordered summary rows of one student and protocol; ceilings are left out.
    """
    shown = shown[~is_ceiling(shown)]
    budgets, groups = budget_of(shown), []
    for budget in budgets.drop_duplicates():
        matching = theirs[theirs["budget"] == budget]
        if len(matching):
            title = "Full data" if budget == FULL else f"{budget} pairs"
            ours = _rows(shown[budgets == budget], distilled)
            groups.append(Group(title, ours + _rows(matching, frozenset())))
    return groups


def crossing(summary: pd.DataFrame, axis: str, sets: Sequence[str], first: str) -> Crossing:
    """Return the numbers of each set under every value of one column.

    Args:
        axis: the column of `summary`: "student" or "protocol".
        sets: names of the sets, in the order of the rows.
        first: the value of `axis` that is shown first; the others are sorted.
    """
    columns = (first, *sorted(set(summary[axis]) - {first}))
    found = {(row["set"], row[axis]): row for row in summary.to_dict("records")}
    rows = {}
    for name in sets:
        rows[name] = [_numbers(found.get((name, column), {})) for column in columns]
    return Crossing(columns, rows)


def _rows(
    rows: pd.DataFrame, distilled: frozenset[str], best: Mapping[str, float] | None = None
) -> tuple[Row, ...]:
    """Return the rows of a group, ours or published; the numbers that show `best` are marked."""
    # Compared as printed, so that two equal numbers on the page are both marked
    marks = {name: _displayed(name, rows[name]) == value for name, value in (best or {}).items()}
    is_rival, made = _is_rival(rows), []
    for index, row in rows.iterrows():
        best_of = [name for name in marks if marks[name][index] and is_rival[index]]
        numbers = _numbers(row, best_of)
        label, source = row.get("label", row["method"]), row.get("source", "")
        is_distilled = row.get("set") in distilled
        sizes = {name: row.get(name, math.nan) for name in SIZES}
        one = Row(label, row.get("n", 0), numbers, row["protocol"], source, is_distilled, sizes)
        made.append(one)
    return tuple(made)


def _is_rival(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are compared with the others of their size."""
    # `random_equal_bytes-100` holds far more pairs than the other sets of its group
    return (rows["method"] != EQUAL_BYTES) & ~is_ceiling(rows)


def _numbers(row: Any, best: Collection[str] = ()) -> Numbers:
    """Return the numbers of a row by name; those of `best` are marked."""
    numbers = {}
    for name in COLUMNS:
        spread = row.get(f"{name}_std", math.nan)
        numbers[name] = Number(row.get(name, math.nan), spread, name in best)
    return numbers


def _displayed(name: str, values: pd.Series) -> pd.Series:
    """Return values as the page prints them (recalls to their decimals, ratios to two), so that a
    printed tie is marked as one.
    """
    if name == "recovery":
        return (values * 100).round(1)
    return values.round(2 if name == "over_random" else BY_NAME[name].decimals)
