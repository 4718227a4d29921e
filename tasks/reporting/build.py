"""Builds the whole report of one profile: page, metrics, tables and the data of the plots. The same
input gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tasks.core.foundations.file_names import METRICS, PAGE
from tasks.reporting.facts import Facts
from tasks.reporting.figures import LEARNED, PARTS, average_curves
from tasks.reporting.gallery import Gallery
from tasks.reporting.measures import further, listing, measured
from tasks.reporting.page import render
from tasks.reporting.tables import (
    check_scores,
    cross_architecture,
    nested_metrics,
    order,
    primary,
    summarise,
)

CURVES = ("set", "seed", "epoch", "loss", "val_mean_recall")
HISTORIES = ("set", "iteration", "loss", "loss_img", "loss_txt")


def build_report(
    scores: pd.DataFrame,
    curves: pd.DataFrame,
    histories: pd.DataFrame,
    galleries: Sequence[Gallery],
    facts: Facts,
    out: Path,
    *,
    published: pd.DataFrame | None,
) -> None:
    """Write `index.html`, `metrics.json`, `tables/*.csv` and `plots/*.csv` below `out`; nothing is
    written when the input is refused.

    `tables/cross_architecture.csv` is written where several students were trained, and
    `tables/measures.csv` where there are measures beyond recovery and the gain over random.

    Args:
        scores: one row per trained student, columns `tables.COLUMNS`, recalls in percent.
        curves: learning curves of the students, columns `CURVES`; may be empty. Where it also has
            the columns `student` or `protocol`, only the rows of the student and protocol that the
            tables show are drawn.
        histories: distillation, columns `HISTORIES`, `figures.LEARNED` where a method learns them,
            and, where a method has two parts, `PARTS`; may be empty. Its sets, and those of
            `galleries`, count as distilled.
        published: `published.load_published()`, or None to leave published numbers out.

    Raises:
        ValueError: `scores`, a frame's columns or a gallery's set is not as described; random
            of a size is missing.
    """
    checked = check_scores(scores)
    histories = _check_frame(histories, HISTORIES, "histories", checked)
    distilled = frozenset(map(str, histories["set"])) | {one.set for one in galleries}
    _check_sets(distilled, checked, "galleries")
    summary = summarise(checked)
    shown = order(primary(summary, facts.protocol, facts.student), distilled)
    averaged = average_curves(_check_frame(_of_shown(curves, shown), CURVES, "curves", checked))
    found = measured(summary, facts.protocol, facts.student)
    listed = listing(found, shown["set"], f"Protocol {facts.protocol}.")
    page = render(
        summary,
        shown,
        averaged,
        histories,
        galleries,
        facts,
        distilled=distilled,
        published=published,
        measures=listed,
    )
    nested = nested_metrics(summary, shown)
    for name, values in further(found).items():
        nested[name] |= values
    metrics = json.dumps(nested, indent=2, allow_nan=False)

    # All that may be refused lies above, so that a refused report leaves no file
    for folder in ("tables", "plots"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / PAGE).write_text(page, encoding="utf-8", newline="\n")
    (out / METRICS).write_text(metrics + "\n", encoding="utf-8", newline="\n")
    _write_csv(checked, out / "tables" / "scores.csv")
    _write_csv(summary, out / "tables" / "summary.csv")
    if listed:
        _write_csv(found, out / "tables" / "measures.csv")
    if summary["student"].nunique() > 1:
        _write_csv(cross_architecture(summary, shown), out / "tables" / "cross_architecture.csv")
    _write_csv(shown[["method", "num_pairs", "mean_recall"]], out / "plots" / "recall.csv")
    _write_csv(averaged, out / "plots" / "learning_curves.csv")
    _write_csv(histories[["set", "iteration", "loss"]], out / "plots" / "distillation.csv")


def _of_shown(curves: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    # Curves of other students or protocols would be averaged with those that are shown
    for column in ("student", "protocol"):
        if column in curves.columns:
            curves = curves[curves[column] == shown[column].iloc[0]]
    return curves


def _check_frame(
    frame: pd.DataFrame, columns: tuple[str, ...], name: str, scores: pd.DataFrame
) -> pd.DataFrame:
    if frame.empty:
        # An empty frame has no types: `set` holds names, the others numbers
        return pd.DataFrame(columns=columns, dtype="float64").astype({"set": "object"})
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(
            f"{name} cannot be plotted without the columns {missing}; received "
            f"{list(frame.columns)}; allowed are {list(columns)}; "
            "build it in tasks/report.py"
        )
    _check_sets(frozenset(map(str, frame["set"])), scores, name)
    kept = frame.columns.intersection([*columns, *LEARNED, PARTS])
    return frame[kept].sort_values(list(columns[:3]), kind="stable").reset_index(drop=True)


def _check_sets(names: frozenset[str], scores: pd.DataFrame, where: str) -> None:
    unknown = sorted(names - set(scores["set"]))
    if unknown:
        raise ValueError(
            f"{where} name sets that have no scores; received {unknown}; allowed are "
            f"{sorted(set(scores['set']))}; "
            "evaluate these sets, or leave them out of the report"
        )


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    # Ten digits: enough to recompute every figure, and free of the last bit in which numpy builds
    # may differ.
    frame.to_csv(path, index=False, float_format="%.10g", lineterminator="\n")
