"""The study `fixed_compute`: a wider head or more pairs, when both have the same operations.

At each level the cell with the best validation recall is chosen, and its test recall is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from tasks.core.evaluation.statistics import Statistics, describe
from tasks.reporting.charts import Chart, Series, Style, line_chart
from tasks.reporting.figures import DASHES, DISTILLED, MARKERS, SELECTED
from tasks.reporting.study_page import Figure, StudyPage, told
from tasks.reporting.text_tables import Table, spread

REAL, SYNTHETIC = "real pairs", "distilled pairs"
STYLES = {
    REAL: Style(SELECTED[0], "square", "5 3"),
    SYNTHETIC: Style(DISTILLED[0], "circle", "", 2.6),
}


@dataclass(frozen=True)
class Notes:
    """What the scores do not hold.

    Attributes:
        distilled: the methods that distil.
        left_out: cells that were not trained: whole epochs miss the level by more than `tolerance`.
        tolerance: a share of the level.
    """

    distilled: Collection[str]
    left_out: Sequence[str]
    tolerance: float


@dataclass(frozen=True)
class Best:
    """The cell (a set and a width) that is best on validation at one level of operations.

    Attributes:
        level: in GFLOP.
        test: mean test recall of its students.
        num_near: cells of the level, itself not counted, within one deviation of it on validation.
        num_cells: cells of the level.
    """

    level: float
    set_name: str
    num_pairs: int
    width: int
    num_epochs: int
    test: Statistics
    num_near: int
    num_cells: int


def build(
    name: str,
    title: str,
    dataset: str,
    scores: pd.DataFrame,
    notes: Notes,
    facts: dict[str, str],
) -> StudyPage:
    """Return the page from the scores, one row a student with its `embed_dim` and `gigaflops`."""
    kinds = scores["method"].isin(list(notes.distilled)).map({True: SYNTHETIC, False: REAL})
    found = {str(kind): _levels(rows) for kind, rows in scores.groupby(kinds, sort=True)}
    figures = [Figure(_best_chart(found), {kind: STYLES[kind] for kind in found})]
    for kind, rows in scores.groupby(kinds, sort=True):
        figures.append(_widths_figure(str(kind), rows))
    num_students = scores["seed"].nunique()
    lead = (
        f"Heads of {scores['embed_dim'].nunique()} widths were trained on "
        f"{scores['set'].nunique()} sets of {dataset}, each for as many epochs as "
        f"{scores['gigaflops'].nunique()} levels of operations pay for, {num_students} students "
        "each."
    )
    tables = (_best_table(found), _grid_table(scores))
    reading, cautions = _reading(found), _cautions(num_students, notes)
    numbers = {}
    for kind, levels in found.items():
        for one in levels:
            numbers[f"{kind}, {one.level:g} GFLOP"] = _numbers(one)
    return StudyPage(
        name,
        title,
        dataset,
        lead,
        reading,
        cautions,
        tuple(figures),
        tables,
        scores,
        facts,
        numbers,
    )


def _numbers(best: Best) -> dict[str, float]:
    return told(
        gigaflops=best.level,
        num_pairs=best.num_pairs,
        embed_dim=best.width,
        num_epochs=best.num_epochs,
        mean_recall=best.test.mean,
        mean_recall_std=best.test.deviation,
    )


def _levels(rows: pd.DataFrame) -> list[Best]:
    return [_best(float(level), cells) for level, cells in rows.groupby("gigaflops", sort=True)]


def _best(level: float, rows: pd.DataFrame) -> Best:
    cells = [cell for _, cell in rows.groupby(["set", "embed_dim"], sort=False)]
    seen = [describe(cell["val_mean_recall"]) for cell in cells]
    place = max(range(len(cells)), key=lambda index: seen[index].mean)
    chosen, top = cells[place], seen[place]
    # One student alone has no deviation: then only cells with an equal mean are near
    near = [one for one in seen if one.mean >= top.mean - (top.deviation or 0.0)]
    first = chosen.iloc[0]
    return Best(
        level,
        str(first["set"]),
        int(first["num_pairs"]),
        int(first["embed_dim"]),
        int(first["num_epochs"]),
        describe(chosen["mean_recall"]),
        len(near) - 1,
        len(cells),
    )


def _reading(found: dict[str, list[Best]]) -> tuple[str, ...]:
    texts = []
    for kind, levels in found.items():
        told = [f"{one.level:g} GFLOP {_cell(one)}, {_recall(one)}" for one in levels]
        first, last = levels[0], levels[-1]
        texts.append(f"Best of {kind}: {'; '.join(told)}.")
        texts.append(
            f"From {first.level:g} to {last.level:g} GFLOP the best width of {kind} goes from "
            f"{first.width} to {last.width}, the pairs from {first.num_pairs} to {last.num_pairs}."
        )
    if set(found) == {REAL, SYNTHETIC}:
        texts.append(_leads(found))
    return tuple(texts)


def _leads(found: dict[str, list[Best]]) -> str:
    real = {one.level: one for one in found[REAL]}
    told, num_led = [], 0
    shared = [one for one in found[SYNTHETIC] if one.level in real]
    for one in shared:
        other = real[one.level]
        difference = one.test.mean - other.test.mean
        # The sum of both is stricter than the deviation of the difference
        noise = (one.test.deviation or 0.0) + (other.test.deviation or 0.0)
        num_led += difference > noise
        told.append(f"{difference:+.1f} (deviations together {noise:.1f}) at {one.level:g} GFLOP")
    return (
        f"Distilled pairs lead real ones by more than both deviations at {num_led} of "
        f"{len(shared)} levels: {'; '.join(told)}."
    )


def _cautions(num_students: int, notes: Notes) -> tuple[str, ...]:
    texts = [
        "Operations are those of the matrix products of both heads, three times a forward pass. "
        "The features of the frozen encoders and the distillation of a set are not in them.",
        "Step sizes are the recipe's at every width, and none that a set has learned. Epochs are "
        "whole numbers.",
        f"{num_students} students a cell; the cell and the epoch are chosen on validation. A set "
        "is one draw.",
    ]
    if notes.left_out:
        texts.append(
            f"Left out, since whole epochs miss the level by more than {100 * notes.tolerance:.0f} "
            f"%: {', '.join(notes.left_out)}."
        )
    return tuple(texts)


def _cell(best: Best) -> str:
    return f"{best.set_name} at width {best.width}"


def _recall(best: Best) -> str:
    return spread(best.test.mean, best.test.deviation)


def _best_table(found: dict[str, list[Best]]) -> Table:
    rows = []
    for kind, levels in found.items():
        for one in levels:
            row = (
                kind,
                f"{one.level:g}",
                one.set_name,
                f"{one.num_pairs}",
                f"{one.width}",
                f"{one.num_epochs}",
                _recall(one),
                f"{one.num_near} of {one.num_cells - 1}",
            )
            rows.append(row)
    columns = ("kind", "GFLOP", "set", "pairs", "width", "epochs", "test recall", "others near")
    caption = (
        "The best cell of each level, chosen on validation. Near are other cells within one "
        "deviation of it on validation."
    )
    return Table(caption, columns, tuple(rows))


def _grid_table(scores: pd.DataFrame) -> Table:
    levels = sorted(set(scores["gigaflops"]))
    rows = []
    for (name, width), cells in scores.groupby(["set", "embed_dim"], sort=False):
        by_level = dict(iter(cells.groupby("gigaflops")))
        row = [f"{name}, width {width}"]
        for level in levels:
            text = ""
            if level in by_level:
                stats = describe(by_level[level]["mean_recall"])
                text = spread(stats.mean, stats.deviation)
            row.append(text)
        rows.append(tuple(row))
    columns = ("set and width", *(f"{level:g} GFLOP" for level in levels))
    return Table("Test recall of every cell in percent.", columns, tuple(rows))


def _best_chart(found: dict[str, list[Best]]) -> Chart:
    series, words = [], []
    for kind, levels in found.items():
        points = tuple((one.level, one.test.mean) for one in levels)
        spreads = tuple(one.test.deviation or 0.0 for one in levels)
        series.append(Series(kind, points, STYLES[kind], spreads))
        words.append(f"{kind} from {points[0][1]:.1f} to {points[-1][1]:.1f}")
    return _chart(series, "Best cell of each level", words)


def _widths_figure(kind: str, rows: pd.DataFrame) -> Figure:
    """Return a line for each width, with the set that is best on validation at each level."""
    series, words, styles = [], [], {}
    colours = (*DISTILLED, *SELECTED)
    for index, (width, own) in enumerate(rows.groupby("embed_dim", sort=True)):
        levels, name = _levels(own), f"width {width}"
        marker, dash = MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)]
        styles[name] = Style(colours[index % len(colours)], marker, dash)
        points = tuple((one.level, one.test.mean) for one in levels)
        series.append(Series(name, points, styles[name]))
        words.append(f"{name} from {points[0][1]:.1f} to {points[-1][1]:.1f}")
    return Figure(_chart(series, f"Best {kind} of each width", words), styles)


def _chart(series: Sequence[Series], title: str, words: Sequence[str]) -> Chart:
    levels = {x for one in series for x, _ in one.points}
    return line_chart(
        series,
        title=title,
        summary=f"Mean recall on the test split in percent over the levels: {'; '.join(words)}.",
        x_label="GFLOP of training (log scale)",
        y_label="mean recall (%)",
        x_values=sorted(levels),
        is_log_x=True,
    )
