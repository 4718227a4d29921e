"""Published numbers as facts: read from `tasks/reporting/published_numbers/*.csv`, each row cited
by its source, and set beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

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
    recalls. `over_random` is its ratio to `random`, random selection of the same source.

    Raises:
        ValueError: a source has no line in `protocols.csv`.
    """
    keys = ["source", "dataset", "num_pairs", "method"]
    recalls = pd.read_csv(folder / "recall.csv", dtype={"num_pairs": str})
    recalls["metric"] = recalls["direction"] + "_r" + recalls["k"].astype(str)
    wide = recalls.pivot(index=keys, columns="metric", values="recall_percent")
    # A recall that we alone measure is no part of their mean
    printed = wide[[name for name in RECALLS if name in wide]]
    wide = wide.assign(mean_recall=printed.mean(axis=1, skipna=False)).reset_index()
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
    table = _with_ratios(table)
    order = ["dataset", "budget", "source", "method"]
    return table.sort_values(order, kind="stable").reset_index(drop=True)


def same_budget(
    published: pd.DataFrame, dataset: str, shown: pd.DataFrame, *, has_mean: bool = True
) -> pd.DataFrame:
    """Return the published rows for our dataset and any of our budgets (full data is the budget
    "full").

    Args:
        published: as `load_published` returns it.
        shown: our summary of one student and protocol.
        has_mean: leave out what was published without a mean recall, such as R@1 alone.
    """
    budgets = budget_of(shown)
    rows = published[(published["dataset"] == dataset) & published["budget"].isin(budgets)]
    if has_mean:
        rows = rows[rows["mean_recall"].notna()]
    # Within a source: random first, full data last, as in our tables
    place = rows["method"].map({RANDOM: 0, FULL: 2}).fillna(1)
    rows = rows.assign(place=place).sort_values(["source", "place", "method"], kind="stable")
    return rows.drop(columns="place").reset_index(drop=True)


def gap(
    published: pd.DataFrame | None, dataset: str, shown: pd.DataFrame, distilled: frozenset[str]
) -> list[GapRow]:
    """Return our distilled ratios to random, then the published ones of the same dataset and
    budget, then the paper's as context.
    """
    ours = shown[shown["set"].isin(distilled)].assign(source="", dataset=dataset)
    # A summary holds no random recall, but the points above it
    ours["budget"], ours["random"] = (
        ours["num_pairs"].astype(str),
        ours["mean_recall"] - ours["gain_over_random"],
    )
    parts = [ours]
    if published is not None:
        theirs = same_budget(published, dataset, shown)
        is_context = (published[list(CONTEXT)] == pd.Series(CONTEXT)).all(axis=1)
        parts += [theirs[~theirs["method"].isin(SELECTIONS)], published[is_context]]
    rows = pd.concat(parts).dropna(subset="over_random")
    rows = rows.rename(columns={"mean_recall": "value", "over_random": "ratio"})
    rows["is_other_dataset"] = rows["dataset"] != dataset
    # The paper's own row may be of our dataset and budget too, and would stand there twice
    rows = rows[[field.name for field in fields(GapRow)]].drop_duplicates()
    return [GapRow(*row) for row in rows.itertuples(index=False, name=None)]


def budget_of(rows: pd.DataFrame) -> pd.Series:
    """Return the published spelling of the budget of each of our rows: "full" for full data,
    otherwise the number of pairs.
    """
    return rows["num_pairs"].astype(str).where(rows["method"] != FULL, FULL)


def _with_ratios(published: pd.DataFrame) -> pd.DataFrame:
    """Add `random`, the mean recall of random selection in the same source, dataset and budget, and
    `over_random`; NaN where it prints none, or zero.
    """
    same = ["source", "dataset", "budget"]
    random = published[published["method"] == RANDOM].set_index(same)["mean_recall"]
    published = published.join(random.where(random > 0).rename("random"), on=same)
    return published.assign(over_random=published["mean_recall"] / published["random"])
