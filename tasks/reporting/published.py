"""Published numbers as facts: read from `tasks/reporting/published_numbers/*.csv`, each row cited
by its source, and set beside ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.reporting.tables import FULL, METRICS, RANDOM, RECALLS

FOLDER = Path(__file__).parent / "published_numbers"
# The paper's own comparison, shown as context whatever our dataset is.
CONTEXT = {"dataset": "flickr30k", "budget": "100", "method": "bi_trajectory"}
SELECTIONS = (RANDOM, "herding", "k_center", "forgetting")


@dataclass(frozen=True)
class GapRow:
    """One ratio to random: ours (`source` is empty) or published.

    Attributes:
        random, value: mean recall in percent of random selection and of the method, same size and
            source.
        ratio: value / random.
        is_other_dataset: True when the dataset is not ours, so the ratio is context and no
            comparison.
    """

    source: str
    protocol: str
    dataset: str
    budget: str
    method: str
    random: float
    value: float
    ratio: float
    is_other_dataset: bool = False


def load_published(folder: Path = FOLDER) -> pd.DataFrame:
    """Return published results: source, protocol, dataset, budget (text: "100" or "full"), method
    and `METRICS` (NaN if unknown).

    `mean_recall` is the published mean where only that is printed, otherwise the mean of all six
    recalls.

    Raises:
        ValueError: a source has no line in `protocols.csv`.
    """
    keys = ["source", "dataset", "num_pairs", "method"]
    recalls = pd.read_csv(folder / "recall.csv", dtype={"num_pairs": str})
    recalls["metric"] = recalls["direction"] + "_r" + recalls["k"].astype(str)
    wide = (
        recalls.pivot(index=keys, columns="metric", values="recall_percent")
        .reindex(columns=list(RECALLS))
        .reset_index()
    )
    wide["mean_recall"] = wide[list(RECALLS)].mean(axis=1, skipna=False)
    means = pd.read_csv(folder / "mean_recall.csv", dtype={"num_pairs": str}).rename(
        columns={"mean_recall_percent": "mean_recall"}
    )
    both = pd.concat([wide, means], ignore_index=True).merge(
        pd.read_csv(folder / "protocols.csv"), on="source", how="left"
    )
    unnamed = sorted(set(both.loc[both["protocol"].isna(), "source"]))
    if unnamed:
        raise ValueError(
            f"published numbers without a protocol; received the sources {unnamed}; allowed is "
            "any source with a line "
            "`source,protocol` in tasks/reporting/published_numbers/protocols.csv; add it there"
        )
    # A metric of ours that nobody published is unknown.
    table = both.rename(columns={"num_pairs": "budget"}).reindex(
        columns=["source", "protocol", "dataset", "budget", "method", *METRICS]
    )
    return table.sort_values(["dataset", "budget", "source", "method"], kind="stable").reset_index(
        drop=True
    )


def same_budget(
    published: pd.DataFrame, dataset: str, shown: pd.DataFrame, *, has_mean: bool = True
) -> pd.DataFrame:
    """Return the published rows for our dataset and any of our budgets (full data is the budget
    "full").

    Adds `over_random`, the ratio to random selection of the same source (NaN where that source
    prints none).

    Args:
        published: as `load_published` returns it.
        shown: our summary of one student and protocol.
        has_mean: leave out what was published without a mean recall, such as R@1 alone.
    """
    budgets = {budget_of(row["method"], row["num_pairs"]) for row in shown.to_dict("records")}
    rows = published[(published["dataset"] == dataset) & published["budget"].isin(budgets)].copy()
    rows = rows[rows["mean_recall"].notna()] if has_mean else rows
    rows["over_random"] = [
        row["mean_recall"] / _random_of(published, row) for row in rows.to_dict("records")
    ]
    rows["place"] = rows["method"].map({RANDOM: 0, FULL: 2}).fillna(1)
    return (
        rows.sort_values(["source", "place", "method"], kind="stable")
        .drop(columns="place")
        .reset_index(drop=True)
    )


def gap(
    published: pd.DataFrame | None, dataset: str, shown: pd.DataFrame, distilled: frozenset[str]
) -> list[GapRow]:
    """Return our distilled ratios to random, then the published ones of the same dataset and
    budget, then the paper's as context.
    """
    ours = [
        _our_row(row, dataset)
        for row in shown.to_dict("records")
        if row["set"] in distilled and not math.isnan(row["over_random"])
    ]
    if published is None:
        return ours
    matching = same_budget(published, dataset, shown)
    matching = matching[~matching["method"].isin(SELECTIONS)]
    is_context = (published[list(CONTEXT)] == pd.Series(CONTEXT)).all(axis=1) & published[
        "mean_recall"
    ].notna()
    theirs = [_published_row(published, row, dataset) for row in matching.to_dict("records")]
    context = [
        _published_row(published, row, dataset) for row in published[is_context].to_dict("records")
    ]
    known = [row for row in [*theirs, *context] if not math.isnan(row.ratio)]
    return ours + list(dict.fromkeys(known))


def budget_of(method: str, num_pairs: int) -> str:
    """Return the published spelling of a budget: "full" for full data, otherwise the number of
    pairs.
    """
    return FULL if method == FULL else str(num_pairs)


def _our_row(row: dict[str, Any], dataset: str) -> GapRow:
    random = row["mean_recall"] - row["gain_over_random"]
    name, budget = str(row["method"]), str(row["num_pairs"])
    return GapRow(
        "",
        str(row["protocol"]),
        dataset,
        budget,
        name,
        random,
        row["mean_recall"],
        row["over_random"],
    )


def _published_row(published: pd.DataFrame, row: dict[str, Any], dataset: str) -> GapRow:
    random, value = _random_of(published, row), float(row["mean_recall"])
    source, protocol, name, budget, method = (
        str(row[key]) for key in ("source", "protocol", "dataset", "budget", "method")
    )
    return GapRow(
        source,
        protocol,
        name,
        budget,
        method,
        random,
        value,
        value / random,
        is_other_dataset=name != dataset,
    )


def _random_of(published: pd.DataFrame, row: dict[str, Any]) -> float:
    """Return the mean recall of random selection in the same source, dataset and budget; NaN where
    it prints none, or zero.
    """
    same = {name: row[name] for name in ("source", "dataset", "budget")} | {"method": RANDOM}
    values = published.loc[(published[list(same)] == pd.Series(same)).all(axis=1), "mean_recall"]
    return float(values.iloc[0]) if len(values) and values.iloc[0] > 0 else math.nan
