"""Scores to summary: mean and standard deviation over seeds, ratio to random, recovery of full data
(METHOD 8).

All recalls are percentages 0..100. `recovery` is a fraction of the mean recall of full data.
`over_random` is a ratio to the mean recall of random selection of the same size. Both are taken
under the same student and protocol.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import pandas as pd

from tasks.core.evaluation import metrics
from tasks.core.evaluation.statistics import describe
from tasks.settings.sets import (
    AUGMENTED,
    CEILING,
    DECODED,
    ENDINGS,
    EQUAL_BYTES,
    FULL,
    PLAIN,
    RANDOM,
)

METRICS = metrics.NAMES
SPREADS = tuple(f"{name}_std" for name in METRICS)
# `mean_recall` is the mean of these.
RECALLS = tuple(metric.name for metric in metrics.LISTED if metric.direction)
DERIVED = ("recovery", "over_random", "gain_over_random")
PROTOCOLS = {
    "strict": "the epoch is chosen on the validation split and the test split is measured once",
    "last": "the last epoch is measured on the test split once",
    "upstream_best": "the best of several test evaluations is printed, as LoRS and RepBlend do; "
    "for comparison only",
}
# METHOD 8 measures a small set by its share of full data, which is a measure only while full data
# is the best there is.
ABOVE_FULL = (
    "A small set has more than 100 % of full data's mean recall: the students of the full data "
    "were not trained to the end, or "
    "the data are too easy. The share of full data says nothing there."
)
IN_WORDS = (
    f"`{DECODED}` after a method: the same set with the nearest training sentences in place of its "
    "texts. Images, similarity and step sizes are the same; the difference is what words are worth."
)
PLAINLY = (
    f"`{PLAIN}` after a method: the same set with plain students, which take no similarity, no "
    "loss and no step sizes of it. The difference is what it owes to its own recipe."
)
IN_CROPS = (
    f"`{AUGMENTED}` after a method: the same set, with random crops and mirrors of its pictures in "
    "the training of its students."
)
CEILINGS = (
    f"`{CEILING}` after a method: linear heads of the full data in closed form, whose ridge the "
    "validation split chooses; no student. With a number of pairs, N, they are the nearest heads "
    "of rank N - 1, all that N centred pairs can carry; of `random` the nearest in the span of its "
    "images. Students with hidden layers can be better."
)
KEYS = ("student", "protocol", "num_pairs", "method", "set")
MEAN = ("mean_recall", "mean_recall_std")
# How large a set is (`pair_files.Size`), the same for all its students
SIZES = ("training_pairs", "num_bytes", "bits")
VALUES = ("n", *chain(*zip(METRICS, SPREADS, strict=True)), *DERIVED, *SIZES)
CROSSED = (
    "set",
    "method",
    "num_pairs",
    "student",
    "protocol",
    "n",
    *MEAN,
    "over_random",
    "recovery",
)
COLUMNS = (*KEYS, "seed", "chosen_epoch", *METRICS, "val_mean_recall", "seconds", *SIZES)


def check_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return `scores` with the columns of `COLUMNS`, sorted so that the order of the input rows
    does not matter.

    Raises:
        ValueError: a column is missing or there are no rows; a recall is not in 0..100 or a
            protocol is unknown; a student is listed twice; random selection is missing for a size.
    """
    missing = [name for name in COLUMNS if name not in scores.columns]
    if missing or scores.empty:
        raise ValueError(
            f"scores cannot be reported: {len(scores)} rows, missing columns {missing}; received "
            f"{list(scores.columns)}; "
            f"allowed is at least one row with {list(COLUMNS)}; run the stage evaluate again"
        )
    recalls = scores[list(METRICS)]
    is_recall = ((recalls >= 0.0) & (recalls <= 100.0)).all(axis=1)
    if not is_recall.all():
        bad = sorted(set(scores.loc[~is_recall, "set"]))
        raise ValueError(
            f"a recall is not a percentage; received it in the sets {bad}; allowed is 0 to 100; "
            "run the stage evaluate again"
        )
    unknown = sorted(set(scores["protocol"]) - set(PROTOCOLS))
    if unknown:
        raise ValueError(
            f"unknown protocol; received {unknown}; allowed are {', '.join(PROTOCOLS)}; change "
            "`evaluate.protocol` in params.yaml"
        )
    twice = scores[scores.duplicated(["set", "student", "protocol", "seed"])]
    if not twice.empty:
        first = twice.iloc[0]
        raise ValueError(
            f"a trained student is listed twice; received set {first['set']!r}, student "
            f"{first['student']!r}, seed {first['seed']} again; "
            "allowed is one row for each set, student, protocol and seed; run the stage evaluate "
            "again"
        )
    _check_random(scores)
    # The full data has no bytes: NaN, also where no other set stands beside it
    scores = scores.astype({name: "float64" for name in SIZES})
    return scores[list(COLUMNS)].sort_values([*KEYS, "seed"], kind="stable").reset_index(drop=True)


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each student, protocol, size and method, from checked scores.

    Columns: `KEYS`, `n` (students trained), for each of `METRICS` the mean and `<metric>_std`
    (divisor n - 1; NaN for n = 1), `SIZES`, and `DERIVED`.
    These are NaN where random is 0 or full data was not trained; `gain_over_random` is in points.
    """
    rows: list[dict[str, Any]] = []
    for values, group in scores.groupby(list(KEYS), sort=True):
        row: dict[str, Any] = {**dict(zip(KEYS, values, strict=True)), "n": len(group)}
        for name in METRICS:
            found = describe(group[name])
            # A frame of numbers says unknown with NaN, which every table leaves out.
            deviation = math.nan if found.deviation is None else found.deviation
            row[name], row[f"{name}_std"] = found.mean, deviation
        for name in SIZES:
            row[name] = group[name].iloc[0]
        if row["method"].endswith(CEILING):
            row["n"] = 0
        rows.append(row)
    summary, same = pd.DataFrame(rows), ["student", "protocol"]
    is_full = summary["method"] == FULL
    full = summary[is_full].set_index(same)["mean_recall"].rename("full")
    sized = [*same, "num_pairs"]
    random = summary[summary["method"] == RANDOM].set_index(sized)["mean_recall"].rename("random")
    recall = summary["mean_recall"]
    # A ratio to zero is unknown
    beside = summary.join(full.where(full > 0), on=same).join(random, on=sized)
    # `random_equal_bytes-100` holds far more than 100 pairs: a ratio to 100 of them says nothing
    known = beside["random"].mask(is_full | (summary["method"] == EQUAL_BYTES))
    return summary.assign(
        recovery=recall / beside["full"],
        over_random=recall / known.where(known > 0),
        gain_over_random=recall - known,
    )


def note_above_full(rows: pd.DataFrame) -> str:
    """Return `ABOVE_FULL` where a set of a summary has a recovery above 1, otherwise an empty
    text.
    """
    sets = rows[~is_ceiling(rows)]
    return ABOVE_FULL if bool((sets["recovery"] > 1.0).any()) else ""


def is_decoded(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are of a distilled set with sentences in place of its texts."""
    return rows["method"].str.endswith(DECODED)


def is_again(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are of a set that has another row: decoded, with plain students, or with
    linear heads.
    """
    return rows["method"].str.endswith(ENDINGS)


def is_ceiling(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are reference rows of linear heads."""
    return rows["method"].str.endswith(CEILING)


def is_of_all(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are of all training pairs: the full data, and its linear heads."""
    return rows["set"] == rows["method"]


def notes(rows: pd.DataFrame) -> str:
    """Return what a reader of these rows of a summary has to know; an empty text for nothing."""
    in_words = IN_WORDS if bool(is_decoded(rows).any()) else ""
    plainly = PLAINLY if bool(rows["method"].str.endswith(PLAIN).any()) else ""
    in_crops = IN_CROPS if bool(rows["method"].str.endswith(AUGMENTED).any()) else ""
    linear = CEILINGS if bool(is_ceiling(rows).any()) else ""
    found = (note_above_full(rows), in_words, plainly, in_crops, linear)
    return " ".join(filter(None, found))


def primary(summary: pd.DataFrame, protocol: str, student: str) -> pd.DataFrame:
    """Return the rows of the student and protocol that the tables show.

    Raises:
        ValueError: no row has this student and protocol.
    """
    rows = summary[(summary["protocol"] == protocol) & (summary["student"] == student)]
    if rows.empty:
        raise ValueError(
            f"no scores to show; received protocol {protocol!r} and student {student!r}; allowed "
            "are the protocols "
            f"{sorted(set(summary['protocol']))} and students {sorted(set(summary['student']))}; "
            "change `evaluate` in params.yaml"
        )
    return rows.reset_index(drop=True)


def order(summary: pd.DataFrame, distilled: Iterable[str]) -> pd.DataFrame:
    """Return `summary` in the order of the tables.

    Sizes ascend, and full data is last. Within a size random selection is first, then other
    coresets, then distilled sets, and ceilings are last. A set that is scored again stands in the
    group of the set itself.

    Args:
        distilled: names of the distilled sets.
    """
    is_random = summary["method"] == RANDOM
    # The name of a set that is scored again, without its ending, is that of the set itself
    own = summary["set"].str.replace(rf"({'|'.join(ENDINGS)})-(\d+)$", r"-\2", regex=True)
    is_made = own.isin(frozenset(distilled))
    kind = is_made.astype(int) - is_random.astype(int) + 2 * is_ceiling(summary).astype(int)
    placed = summary.assign(is_full=is_of_all(summary), kind=kind)
    placed = placed.sort_values(["is_full", "num_pairs", "kind", "method"], kind="stable")
    return placed[summary.columns].reset_index(drop=True)


def cross_architecture(summary: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """Return the sets of `shown`, in their order, under every student of the same protocol, the one
    that is shown first.

    Columns: set, method, num_pairs, student, protocol, n, mean_recall and its deviation,
    `over_random` and `recovery`, both relative to random and full data of the same student.
    """
    place = pd.Series(range(len(shown)), index=shown["set"])
    rows = summary[summary["protocol"] == shown["protocol"].iloc[0]]
    rows = rows.assign(
        place=rows["set"].map(place), other=rows["student"] != shown["student"].iloc[0]
    )
    rows = rows.dropna(subset="place").sort_values(["place", "other"], kind="stable")
    return rows[list(CROSSED)].reset_index(drop=True)


def nested_metrics(summary: pd.DataFrame, shown: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return {set: {metric: value}} of the `shown` rows for `dvc metrics`; below, others: {student:
    {protocol: {metric: value}}}.
    """
    nested = {row["set"]: _rounded(row, VALUES) for row in shown.to_dict("records")}
    main = shown[["student", "protocol"]].iloc[0]
    for row in summary[summary["set"].isin(list(nested))].to_dict("records"):
        if (row["student"], row["protocol"]) != tuple(main):
            students = nested[row["set"]].setdefault("others", {})
            of_student = students.setdefault(row["student"], {})
            of_student[row["protocol"]] = _rounded(row, (*MEAN, *DERIVED))
    return nested


def _check_random(scores: pd.DataFrame) -> None:
    for (student, protocol, num_pairs), group in scores[~is_of_all(scores)].groupby(
        ["student", "protocol", "num_pairs"]
    ):
        if RANDOM not in set(group["method"]):
            raise ValueError(
                f"random selection of {num_pairs} pairs is missing for student {student!r} under "
                f"protocol {protocol!r}; received only "
                f"{sorted(set(group['method']))}; allowed is any list of methods that has "
                f"{RANDOM!r} in every size; "
                "add it to `methods.coresets` in params.yaml and run evaluate again"
            )


def _rounded(row: dict[Any, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return values of a row as JSON has them: four digits, and null for what is unknown."""
    found: dict[str, Any] = {}
    for name in names:
        value = row[name]
        found[name] = None if math.isnan(value) else round(value, 4)
        if name in SIZES and found[name] is not None:
            found[name] = int(value)
    return found
