"""The figures of the report: recall against size, learning curves, distillation losses. Data frames
in, `Chart`s out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.core.evaluation.statistics import mean
from tasks.reporting.charts import Chart, Series, Style, line_chart
from tasks.reporting.tables import FULL, RANDOM

# All at least 4.5:1 on white; a test computes it. Order: first the distilled methods, then the
# other selections.
DISTILLED = ("#0b5cad", "#be123c", "#3f6212", "#86198f")
SELECTED = ("#b45309", "#6d28d9", "#0f766e", "#7c2d12")
MARKERS = ("square", "diamond", "triangle")
DASHES = ("5 3", "2 2.5", "8 3 2 3", "1 3")
MAX_POINTS = 150
NO_VALUE = "no finite value"


@dataclass(frozen=True)
class Legend:
    """One entry of the legend that a group of panels shares."""

    name: str
    style: Style


@dataclass(frozen=True)
class Panels:
    """Charts that share a legend. `num_averaged` is the number of consecutive steps averaged into
    one point, 1 for none.
    """

    charts: tuple[Chart, ...]
    legend: tuple[Legend, ...]
    num_averaged: int = 1


def method_styles(summary: pd.DataFrame, distilled: frozenset[str]) -> dict[str, Style]:
    """Return one style for each method: random grey, full data black, distilled methods bold,
    others thin and dashed.
    """
    styles = {RANDOM: Style("#5b6470", "circle", "4 3"), FULL: Style("#16191d", "none", "7 4")}
    rows = summary[~summary["method"].isin(list(styles))]
    made = sorted(set(rows.loc[rows["set"].isin(distilled), "method"]))
    chosen = sorted(set(rows["method"]) - set(made))
    for index, name in enumerate(made):
        styles[name] = Style(DISTILLED[index % len(DISTILLED)], "circle", "", 2.6)
    for index, name in enumerate(chosen):
        styles[name] = Style(
            SELECTED[index % len(SELECTED)],
            MARKERS[index % len(MARKERS)],
            DASHES[index % len(DASHES)],
        )
    return styles


def recall_by_size(shown: pd.DataFrame, styles: dict[str, Style]) -> Chart:
    """Return mean recall against the number of pairs (log axis) with one standard deviation, full
    data as a level.
    """
    series = []
    for method, rows in shown.groupby("method", sort=True):
        rows = rows.sort_values("num_pairs")
        points = tuple(
            (float(x), float(y))
            for x, y in zip(rows["num_pairs"], rows["mean_recall"], strict=True)
        )
        series.append(
            Series(
                str(method),
                points,
                styles[str(method)],
                tuple(rows["mean_recall_std"]),
                is_level=method == FULL,
            )
        )
    parts = [
        f"{one.name}: "
        + (", ".join(f"{y:.1f} at {x:g} pairs" for x, y in _finite(one)) or NO_VALUE)
        for one in series
    ]
    sizes = sorted({float(size) for size in shown.loc[shown["method"] != FULL, "num_pairs"]})
    return line_chart(
        series,
        title="Mean recall against the number of pairs",
        summary="Mean recall on the test split, in percent. " + "; ".join(parts) + ".",
        x_label="training pairs (log scale)",
        y_label="mean recall (%)",
        x_values=sizes,
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
    by_set = dict(iter(averaged.groupby("set", sort=True)))
    charts, methods = [], set()
    sized = shown[shown["set"].isin(list(by_set))].assign(
        is_full=lambda rows: rows["method"] == FULL
    )
    for (is_full, num_pairs), rows in sized.groupby(["is_full", "num_pairs"], sort=True):
        series = []
        for row in rows.itertuples():
            curve = by_set[row.set]
            points = tuple(
                (float(x), float(y))
                for x, y in zip(curve["epoch"], curve["val_mean_recall"], strict=True)
            )
            style = styles[str(row.method)]
            series.append(
                Series(
                    str(row.method),
                    points,
                    Style(style.colour, "none", "" if is_full else style.dash, style.width),
                )
            )
        methods |= set() if is_full else {one.name for one in series}
        parts = [f"{one.name} {_course(one)}" for one in series]
        charts.append(
            line_chart(
                series,
                title=f"Full data ({num_pairs} pairs)" if is_full else f"{num_pairs} pairs",
                summary="Validation mean recall in percent over epochs, mean over seeds: "
                + "; ".join(parts)
                + ".",
                x_label="epoch",
                y_label="validation mean recall (%)",
            )
        )
    return Panels(tuple(charts), _legend(methods, styles))


def distillation_curves(histories: pd.DataFrame) -> Panels:
    """Return one panel of the terminal loss for each distilled set, with its image and text part; a
    warm start has its own.
    """
    styles = {
        "total": Style("#16191d", "none", "", 2.2),
        "image": Style("#0b5cad", "none", "5 3"),
        "text": Style("#b45309", "none", "2 2.5"),
    }
    columns = {"total": "loss", "image": "loss_img", "text": "loss_txt"}
    return _history_panels(histories, columns, styles, "terminal loss")


def step_size_curves(histories: pd.DataFrame) -> Panels:
    """Return one panel of the learned student step sizes for each panel of
    `distillation_curves`.
    """
    styles = {"image": Style("#0b5cad", "none", "5 3"), "text": Style("#b45309", "none", "2 2.5")}
    return _history_panels(
        histories, {"image": "step_size_img", "text": "step_size_txt"}, styles, "learned step size"
    )


def _history_panels(
    histories: pd.DataFrame, columns: dict[str, str], styles: dict[str, Style], y_label: str
) -> Panels:
    charts, largest = [], 1
    if "is_warm_start" in histories:
        names = histories["set"].where(
            histories["is_warm_start"] != 1.0, histories["set"] + ", warm start"
        )
        histories = histories.assign(set=names)
    for name, rows in histories.groupby("set", sort=True):
        rows = rows.sort_values("iteration")
        size = -(-len(rows) // MAX_POINTS)
        largest = max(largest, size)
        values = rows[list(columns.values())].astype(float)
        finite = values.where(np.isfinite(values))
        # A mean passes over missing values, so that they are counted here.
        num_left_out = int(finite.isna().to_numpy().sum())
        thin = finite.groupby(np.arange(len(rows)) // size).mean()
        thin["iteration"] = rows["iteration"].to_numpy()[::size]
        series = [
            Series(
                label,
                tuple(
                    (float(x), float(y))
                    for x, y in zip(thin["iteration"], thin[column], strict=True)
                    if not np.isnan(y)
                ),
                styles[label],
            )
            for label, column in columns.items()
        ]
        parts = [f"{label} {_ends(finite[column])}" for label, column in columns.items()]
        charts.append(
            line_chart(
                series,
                title=str(name),
                summary=f"{y_label.capitalize()} over {len(rows)} recorded iterations: "
                + "; ".join(parts)
                + ".",
                x_label="iteration",
                y_label=y_label,
                num_left_out=num_left_out,
            )
        )
    return Panels(
        tuple(charts), tuple(Legend(label, style) for label, style in styles.items()), largest
    )


def _finite(series: Series) -> list[tuple[float, float]]:
    return [point for point in series.points if np.isfinite(point).all()]


def _course(series: Series) -> str:
    """Return the last and the best value of a learning curve in words."""
    values = [y for _, y in _finite(series)]
    return f"ends at {values[-1]:.1f} (best {max(values):.1f})" if values else f"has {NO_VALUE}"


def _ends(values: pd.Series) -> str:
    """Return the first and the last known value in words."""
    known = values.dropna()
    return f"from {known.iloc[0]:.3g} to {known.iloc[-1]:.3g}" if len(known) else f"has {NO_VALUE}"


def _legend(methods: set[str], styles: dict[str, Style]) -> tuple[Legend, ...]:
    return tuple(Legend(name, style) for name, style in styles.items() if name in methods)
