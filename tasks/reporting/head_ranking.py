"""The study `architecture_search`: how far small sets rank heads as the full data does.

A search sees validation recall alone. The truth is the test recall of students of the full data. So
each set's validation recall is compared with that truth, always across seeds. The full data's own
validation recall, compared in the same way, gives the ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.core.evaluation.agreement import Agreement, agreement, lost
from tasks.core.evaluation.statistics import Statistics, describe
from tasks.reporting.charts import Chart, Series, Style, line_chart
from tasks.reporting.figures import DASHES, DISTILLED, MARKERS, SELECTED
from tasks.reporting.study_page import Figure, StudyPage, told
from tasks.reporting.tables import FULL
from tasks.reporting.text_tables import Table, between, spread

MEGABYTE = 1e6


@dataclass(frozen=True)
class Notes:
    """What the scores do not hold.

    Attributes:
        num_bytes: of each set as stored; real pairs as JPEG of `jpeg_quality`, one caption each.
        same_bytes: {distilled set: the random set that takes as many bytes}.
    """

    num_bytes: Mapping[str, float]
    same_bytes: Mapping[str, str]
    jpeg_quality: int


@dataclass(frozen=True)
class Ranking:
    """What one set says about the heads.

    Attributes:
        val: (S, H) validation recall of S students and H heads.
        agreed: agreement with the truth over all heads.
        upper: agreement over the better half of the heads alone; the truth says which those are.
        lost: points of test recall under full data that the set's choice loses, over students.
        chosen: the head with the best mean validation recall.
        seconds: training of all its students.
    """

    name: str
    num_pairs: int
    val: np.ndarray
    agreed: Agreement
    upper: Agreement
    lost: Statistics
    chosen: str
    seconds: float


def build(
    name: str,
    title: str,
    dataset: str,
    scores: pd.DataFrame,
    notes: Notes,
    facts: dict[str, str],
) -> StudyPage:
    """Return the page from the scores, one row a student with its `head`."""
    heads = list(dict.fromkeys(scores["head"]))
    truth = _by_head(scores[scores["set"] == FULL], "mean_recall", heads)
    found = {}
    for set_name, rows in scores.groupby("set", sort=False):
        found[str(set_name)] = _ranking(str(set_name), rows, truth, heads)
    styles = _styles(found, notes)
    lead = (
        f"{len(heads)} heads were trained on {len(found)} sets of {dataset}, {len(truth)} students "
        "each. Kendall's tau says how far a set ranks them as the full data does."
    )
    return StudyPage(
        name,
        title,
        dataset,
        lead,
        _reading(found, truth, notes),
        _cautions(truth, notes),
        (
            Figure(_recall_chart(found, truth, styles), styles),
            Figure(_cost_chart(found, styles), {}),
        ),
        (_sets_table(found, notes), _heads_table(found, truth, heads)),
        scores,
        facts,
        {name: _numbers(one, found[FULL], notes) for name, one in found.items()},
    )


def _by_head(rows: pd.DataFrame, column: str, heads: list[str]) -> np.ndarray:
    return rows.pivot(index="seed", columns="head", values=column)[heads].to_numpy(float)


def _ranking(name: str, rows: pd.DataFrame, truth: np.ndarray, heads: list[str]) -> Ranking:
    val = _by_head(rows, "val_mean_recall", heads)
    # A search looks among good heads; to tell hopeless ones apart is easy. An odd number rounds up.
    better = _order(truth)[: (len(heads) + 1) // 2]
    return Ranking(
        name,
        int(rows["num_pairs"].iloc[0]),
        val,
        agreement(val, truth),
        agreement(val[:, better], truth[:, better]),
        describe(lost(val, truth)),
        heads[int(val.mean(axis=0).argmax())],
        float(rows["seconds"].sum()),
    )


def _numbers(one: Ranking, full: Ranking, notes: Notes) -> dict[str, float]:
    low, high = one.agreed.interval
    return told(
        num_pairs=one.num_pairs,
        set_bytes=notes.num_bytes[one.name],
        tau=one.agreed.tau,
        tau_low=low,
        tau_high=high,
        of_ceiling=_of_ceiling(one, full),
        tau_better_half=one.upper.tau,
        points_lost=one.lost.mean,
        points_lost_std=one.lost.deviation,
        seconds=one.seconds,
    )


def _of_ceiling(one: Ranking, full: Ranking) -> float | None:
    """Return tau as a share of the ceiling; None where full data ranks no better than chance."""
    return one.agreed.tau / full.agreed.tau if full.agreed.tau > 0 else None


def _reading(found: dict[str, Ranking], truth: np.ndarray, notes: Notes) -> tuple[str, ...]:
    full, num_heads, texts = found[FULL], truth.shape[1], []
    for name, beside in notes.same_bytes.items():
        one, equal = found[name], found[beside]
        random = found[f"random-{one.num_pairs}"]
        size = f"the same {notes.num_bytes[name] / MEGABYTE:.2f} MB"
        # All real pairs together may take fewer bytes than the distilled set
        if equal.num_pairs == full.num_pairs:
            all_bytes = notes.num_bytes[beside] / MEGABYTE
            size = f"{all_bytes:.2f} MB, all that there are for {size}"
        texts += [
            f"{name} ranks the {num_heads} heads with tau {_tau(one.agreed)} of a ceiling "
            f"of {_tau(full.agreed)}: full data against full data reseeded.",
            f"{random.num_pairs} random pairs reach {_tau(random.agreed)}. "
            f"{_compared(one, random)}",
            f"{equal.num_pairs} random pairs, which take {size}, reach "
            f"{_tau(equal.agreed)}. {_compared(one, equal)}",
            f"Among the better half of the heads tau is {_tau(one.upper)} for {name}, "
            f"{_tau(random.upper)} for {random.name}, {_tau(equal.upper)} for {equal.name}, of a "
            f"ceiling of {_tau(full.upper)}. {_compared(one, equal, is_upper=True)}",
            f"The choice of {name} loses {_points(one)} of {truth.mean(axis=0).max():.1f} points "
            f"under full data; that of {random.name} {_points(random)}, of {equal.name} "
            f"{_points(equal)}, of full data itself {_points(full)}. "
            f"A head taken blindly loses {truth.mean(axis=0).max() - truth.mean():.2f} on average.",
            f"Training all heads took {one.seconds:.0f} s on {name}, {random.seconds:.0f} s on "
            f"{random.name}, {equal.seconds:.0f} s on {equal.name} and {full.seconds:.0f} s on "
            "the full data.",
        ]
    return tuple(texts)


def _cautions(truth: np.ndarray, notes: Notes) -> tuple[str, ...]:
    return (
        "Intervals (95 %) resample the heads. Each set is one draw: another one of the same kind "
        "may rank otherwise.",
        f"{len(truth)} students a head and set; students are compared across seeds alone.",
        "Bytes are those of the stored float32 set, without the set's manifest. Real pairs are "
        f"counted as JPEG of quality {notes.jpeg_quality} at the prepared size with one caption.",
        "Random pairs of the same bytes take the recipe of full data, with as many steps. The "
        "step size is the head's; none that a set has learned is taken.",
        "What the distillation of a set took is not in the seconds.",
    )


def _tau(agreed: Agreement) -> str:
    return f"{agreed.tau:.2f} ({between(agreed.interval)})"


def _points(ranking: Ranking) -> str:
    return spread(ranking.lost.mean, ranking.lost.deviation, 2)


def _compared(one: Ranking, other: Ranking, *, is_upper: bool = False) -> str:
    """Say whether the interval of a difference leaves zero out."""
    # The difference is resampled in pairs: two intervals that overlap would say less
    mine, theirs = (one.upper, other.upper) if is_upper else (one.agreed, other.agreed)
    difference, (low, high) = mine.minus(theirs)
    shown = f"{difference:+.2f} ({between((low, high))})"
    if low > 0:
        return f"{one.name} ranks better than {other.name}: {shown}."
    if high < 0:
        return f"{one.name} ranks worse than {other.name}: {shown}."
    return f"No difference to {other.name} is shown: {shown}."


def _sets_table(found: dict[str, Ranking], notes: Notes) -> Table:
    columns = (
        "set",
        "pairs",
        "MB",
        "tau (95 %)",
        "of the ceiling",
        "tau, better half",
        "points lost",
        "head chosen",
        "seconds",
    )
    rows = []
    for name, one in found.items():
        label = f"{name} (ceiling)" if name == FULL else name
        share = _of_ceiling(one, found[FULL])
        row = (
            label,
            f"{one.num_pairs}",
            f"{notes.num_bytes[name] / MEGABYTE:.2f}",
            _tau(one.agreed),
            "" if share is None else f"{100 * share:.0f} %",
            _tau(one.upper),
            _points(one),
            one.chosen,
            f"{one.seconds:.0f}",
        )
        rows.append(row)
    caption = (
        "Kendall's tau-b of a set's validation recall against the test recall under full data; "
        "points of test recall under full data that the choice of a set loses, over its students."
    )
    return Table(caption, columns, tuple(rows))


def _heads_table(found: dict[str, Ranking], truth: np.ndarray, heads: list[str]) -> Table:
    rows = []
    for index in _order(truth):
        stats = describe(truth[:, index])
        own = [f"{one.val[:, index].mean():.1f}" for one in found.values()]
        rows.append((heads[index], spread(stats.mean, stats.deviation), *own))
    columns = ("head", "test, full data", *(f"validation, {name}" for name in found))
    caption = (
        "Mean recall of each head in percent, best under full data first: w is its width, h its "
        "hidden layers, lr its step size, tau its temperature."
    )
    return Table(caption, columns, tuple(rows))


def _order(truth: np.ndarray) -> list[int]:
    return [int(index) for index in np.argsort(-truth.mean(axis=0), kind="stable")]


def _styles(found: dict[str, Ranking], notes: Notes) -> dict[str, Style]:
    styles = {FULL: Style("#16191d", "none", "7 4")}
    others = [name for name in found if name != FULL and name not in notes.same_bytes]
    for index, name in enumerate(notes.same_bytes):
        styles[name] = Style(DISTILLED[index % len(DISTILLED)], "circle", "", 2.6)
    for index, name in enumerate(others):
        marker, dash = MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)]
        styles[name] = Style(SELECTED[index % len(SELECTED)], marker, dash)
    return styles


def _recall_chart(found: dict[str, Ranking], truth: np.ndarray, styles: dict[str, Style]) -> Chart:
    order, series, words = _order(truth), [], []
    for name, one in found.items():
        values = one.val.mean(axis=0)[order]
        points = [(float(rank), float(value)) for rank, value in enumerate(values, 1)]
        series.append(Series(name, tuple(points), styles[name]))
        words.append(f"{name} from {values[0]:.1f} to {values[-1]:.1f}")
    return line_chart(
        series,
        title="Validation recall of the heads, best under full data first",
        summary="A set that ranks as the full data does has a falling line. "
        f"From the first head to the last: {'; '.join(words)}.",
        x_label="rank under full data (test)",
        y_label="validation mean recall (%)",
    )


def _cost_chart(found: dict[str, Ranking], styles: dict[str, Style]) -> Chart:
    series, words = [], []
    for name, one in found.items():
        low, high = one.agreed.interval
        # Full data has no marker, since it is a line elsewhere; a point needs one
        marker = "triangle" if name == FULL else styles[name].marker
        style = Style(styles[name].colour, marker, "", styles[name].width)
        point = (one.seconds, one.agreed.tau)
        series.append(Series(name, (point,), style, ((high - low) / 2,)))
        words.append(f"{name} {one.agreed.tau:.2f} for {one.seconds:.0f} s")
    return line_chart(
        series,
        title="Agreement with full data against what the search took",
        summary=f"Kendall's tau with half of its 95 % interval as bars: {'; '.join(words)}.",
        x_label="seconds of training, all heads",
        y_label="Kendall's tau",
        has_labels=True,
    )
