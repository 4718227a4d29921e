"""The figures of the report: recall against size, learning curves, distillation losses. Data frames
in, `Chart`s out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import pandas as pd

from tasks.core.evaluation.statistics import mean
from tasks.reporting.charts import Chart, Series, Style, line_chart
from tasks.reporting.tables import FULL, RANDOM, is_again
from tasks.settings.sets import AUGMENTED, DECODED, PLAIN

# All at least 4.5:1 on white; a test computes it. Order: first the distilled methods, then the
# other selections.
DISTILLED = ("#0b5cad", "#be123c", "#3f6212", "#86198f")
SELECTED = ("#b45309", "#6d28d9", "#0f766e", "#7c2d12")
MARKERS = ("square", "diamond", "triangle")
AGAIN = {DECODED: "diamond", PLAIN: "square", AUGMENTED: "triangle"}
DASHES = ("5 3", "2 2.5", "8 3 2 3", "1 3")
MAX_POINTS = 150
NO_VALUE = "no finite value"
# Lines of a distillation, and how the columns of their values end.
TOTAL = Style("#16191d", "none", "", 2.2)
KINDS = {"image": Style("#0b5cad", "none", "5 3"), "text": Style("#b45309", "none", "2 2.5")}
ENDINGS = {"total": "", "image": "_img", "text": "_txt"}
LEARNED = ("step_size_img", "step_size_txt")
PARTS = "is_warm_start"  # of histories that have several parts


@dataclass(frozen=True)
class Panels:
    """Charts that share a legend, {name: style}.

    Attributes:
        num_averaged: the number of consecutive steps averaged into one point, 1 for none.
    """

    charts: tuple[Chart, ...]
    legend: dict[str, Style]
    num_averaged: int = 1


def method_styles(summary: pd.DataFrame, distilled: frozenset[str]) -> dict[str, Style]:
    """Return one style for each method: random grey, full data black, distilled methods bold,
    others thin and dashed; further rows of a set dotted in the colour of its method.
    """
    styles = {RANDOM: Style("#5b6470", "circle", "4 3"), FULL: Style("#16191d", "none", "7 4")}
    rows = summary[~summary["method"].isin(list(styles))]
    made = sorted(set(rows.loc[rows["set"].isin(distilled), "method"]))
    further = sorted(set(rows.loc[is_again(rows), "method"]))
    chosen = sorted(set(rows["method"]) - set(made) - set(further))
    for name, colour in zip(made, cycle(DISTILLED), strict=False):
        styles[name] = Style(colour, "circle", "", 2.6)
    looks = (cycle(SELECTED), cycle(MARKERS), cycle(DASHES))
    for name, colour, marker, dash in zip(chosen, *looks, strict=False):
        styles[name] = Style(colour, marker, dash)
    # A set that is scored a further time keeps the colour of its method, dotted, with another
    # marker
    for name in further:
        ending = next(one for one in AGAIN if name.endswith(one))
        colour = styles[name.removesuffix(ending)].colour
        styles[name] = Style(colour, AGAIN[ending], "2 2.5")
    return styles


def recall_by_size(shown: pd.DataFrame, styles: dict[str, Style]) -> Chart:
    """Return mean recall against the number of pairs (log axis) with one standard deviation, full
    data as a level.
    """
    series, words = [], []
    for method, rows in shown.groupby("method", sort=True):
        rows = rows.sort_values("num_pairs")
        one = replace(
            _series(method, rows, "num_pairs", "mean_recall", styles),
            spread=tuple(rows["mean_recall_std"]),
            is_level=method == FULL,
        )
        values = ", ".join(f"{y:.1f} at {x:g} pairs" for x, y in _finite(one))
        series.append(one)
        words.append(f"{method}: {values or NO_VALUE}")
    sizes = shown.loc[shown["method"] != FULL, "num_pairs"]
    return line_chart(
        series,
        title="Mean recall against the number of pairs",
        summary=f"Mean recall on the test split, in percent. {'; '.join(words)}.",
        x_label="training pairs (log scale)",
        y_label="mean recall (%)",
        x_values=sorted(set(sizes.astype(float))),
        is_log_x=True,
        has_labels=True,
    )


def average_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Return columns set, epoch, val_mean_recall averaged over seeds; epochs without a validation
    are left out.
    """
    measured = curves.dropna(subset=["val_mean_recall"])
    by_epoch = measured.groupby(["set", "epoch"], sort=True, as_index=False)
    return by_epoch["val_mean_recall"].agg(mean)


def learning_curves(
    averaged: pd.DataFrame, shown: pd.DataFrame, styles: dict[str, Style]
) -> Panels:
    """Return one panel for each size, a line for each method: validation mean recall over epochs,
    averaged over seeds.
    """
    # Marks of many epochs would hide the lines
    plain = {name: replace(style, marker="none") for name, style in styles.items()}
    plain[FULL] = replace(plain[FULL], dash="")
    by_set = dict(iter(averaged.groupby("set", sort=True)))
    charts, methods = [], set()
    sized = shown[shown["set"].isin(list(by_set))]
    for (is_full, num_pairs), rows in sized.groupby([sized["method"] == FULL, "num_pairs"]):
        series, words = [], []
        for row in rows.itertuples():
            one = _series(row.method, by_set[row.set], "epoch", "val_mean_recall", plain)
            series.append(one)
            words.append(f"{one.name} {_course(one)}")
        if not is_full:
            methods |= set(rows["method"])
        title = f"Full data ({num_pairs} pairs)" if is_full else f"{num_pairs} pairs"
        told = "; ".join(words)
        chart = line_chart(
            series,
            title=title,
            summary=f"Validation mean recall in percent over epochs, mean over seeds: {told}.",
            x_label="epoch",
            y_label="validation mean recall (%)",
        )
        charts.append(chart)
    legend = {name: style for name, style in styles.items() if name in methods}
    return Panels(tuple(charts), legend)


def distillation_curves(histories: pd.DataFrame) -> Panels:
    """Return one panel of the terminal loss for each distilled set, with its image and text part; a
    warm start has its own.
    """
    return _history_panels(histories, "loss", "terminal loss", {"total": TOTAL, **KINDS})


def step_size_curves(histories: pd.DataFrame) -> Panels:
    """Return one panel of the learned student step sizes for each panel of `distillation_curves`,
    by the same title. A method that trains no students learns none, and has no panel.
    """
    columns = list(LEARNED)
    is_learned = histories.reindex(columns=columns).notna().any(axis=1)
    sets = histories.loc[is_learned, "set"].unique()
    return _history_panels(
        histories[histories["set"].isin(sets)], "step_size", "learned step size", KINDS
    )


def _history_panels(
    histories: pd.DataFrame, column: str, y_label: str, styles: dict[str, Style]
) -> Panels:
    """Return a panel of each set from the column `column` and those of its parts."""
    charts, largest = [], 1
    columns = {f"{column}{ENDINGS[label]}": label for label in styles}
    if PARTS in histories:
        warm = histories["set"] + ", warm start"
        histories = histories.assign(set=histories["set"].where(histories[PARTS] != 1.0, warm))
    for name, rows in histories.groupby("set", sort=True):
        rows = rows.sort_values("iteration")
        # Thousands of iterations would make megabytes of SVG
        size = -(-len(rows) // MAX_POINTS)
        largest = max(largest, size)
        values = rows[list(columns)].rename(columns=columns).astype(float)
        finite = values.where(np.isfinite(values))
        thin = finite.groupby(np.arange(len(rows)) // size).mean()
        # A mean stands at the first iteration of its group
        thin["iteration"] = rows["iteration"].to_numpy()[::size]
        series, words = [], []
        for label in styles:
            series.append(_series(label, thin.dropna(subset=label), "iteration", label, styles))
            words.append(f"{label} {_ends(finite[label].dropna())}")
        told = f"{y_label.capitalize()} over {len(rows)} recorded iterations"
        chart = line_chart(
            series,
            title=str(name),
            summary=f"{told}: {'; '.join(words)}.",
            x_label="iteration",
            y_label=y_label,
            # A mean passes over missing values, so that they are counted here.
            num_left_out=int(finite.isna().to_numpy().sum()),
        )
        charts.append(chart)
    return Panels(tuple(charts), styles, largest)


def _series(name: str, rows: pd.DataFrame, x: str, y: str, styles: dict[str, Style]) -> Series:
    points = rows[[x, y]].astype(float).itertuples(index=False, name=None)
    return Series(name, tuple(points), styles[name])


def _finite(series: Series) -> list[tuple[float, float]]:
    return [point for point in series.points if np.isfinite(point).all()]


def _course(series: Series) -> str:
    """Return the last and the best value of a learning curve in words."""
    values = [y for _, y in _finite(series)]
    return f"ends at {values[-1]:.1f} (best {max(values):.1f})" if values else f"has {NO_VALUE}"


def _ends(known: pd.Series) -> str:
    """Return the first and the last of known values in words."""
    return f"from {known.iloc[0]:.3g} to {known.iloc[-1]:.3g}" if len(known) else f"has {NO_VALUE}"
