"""The page of `fixed_compute` chooses on validation and says what made-up scores hold."""

from __future__ import annotations

import pandas as pd
import pytest

from tasks.reporting.fixed_compute import Notes, build

LEVELS = (1.0, 4.0, 16.0)


def _rows(set_name, method, num_pairs, width, by_level):
    """Two students a level that differ by 1: (validation, test) of their mean."""
    rows = []
    for level, (val, test) in by_level.items():
        for seed, offset in enumerate((-0.5, 0.5)):
            row = {"set": set_name, "method": method, "num_pairs": num_pairs, "embed_dim": width}
            row |= {"gigaflops": level, "seed": seed, "num_epochs": 7}
            rows.append({**row, "val_mean_recall": val + offset, "mean_recall": test + offset})
    return rows


@pytest.fixture
def page():
    rows = [
        # Best on test, not on validation: it must not be chosen
        *_rows("random-9", "random", 9, 8, {1.0: (10, 30), 4.0: (12, 12), 16.0: (13, 13)}),
        *_rows("random-9", "random", 9, 32, {1.0: (11, 9), 4.0: (12.5, 14), 16.0: (13.9, 15)}),
        *_rows("full", "full", 77, 32, {4.0: (20, 21), 16.0: (30, 31)}),
        *_rows("made-9", "made", 9, 8, {1.0: (18, 17), 4.0: (19, 21.3), 16.0: (19, 19)}),
    ]
    notes = Notes({"made"}, ("full at width 32 with 1 GFLOP",), 0.15)
    facts = {"profile": "toy"}
    return build("fixed_compute", "Width or pairs", "toy", pd.DataFrame(rows), notes, facts)


def test_the_best_cell_of_a_level_is_chosen_on_validation(page):
    rows = {(row[0], row[1]): row[2:] for row in page.tables[0].rows}
    assert rows["real pairs", "1"] == ("random-9", "9", "32", "7", "9.0 +- 0.7", "0 of 1")
    assert rows["real pairs", "16"][:3] == ("full", "77", "32")
    assert rows["distilled pairs", "4"] == ("made-9", "9", "8", "7", "21.3 +- 0.7", "0 of 0")


def test_mlflow_is_told_the_rows_of_the_table(page):
    assert set(page.numbers) == {
        f"{kind}, {level} GFLOP" for kind, level, *_ in page.tables[0].rows
    }
    best = page.numbers["distilled pairs, 4 GFLOP"]
    assert best.pop("study/mean_recall_std") == pytest.approx(0.5**0.5)
    assert best == {
        "study/gigaflops": 4.0,
        "study/num_pairs": 9,
        "study/embed_dim": 8,
        "study/num_epochs": 7,
        "study/mean_recall": pytest.approx(21.3),
    }


def test_the_reading_says_how_width_and_pairs_grow_and_who_leads(page):
    grown = [text for text in page.reading if "the best width of real pairs" in text]
    told = (
        "From 1 to 16 GFLOP the best width of real pairs goes from 32 to 32, the pairs from 9 to "
    )
    assert grown == [f"{told}77."]
    assert page.reading[-1] == (
        "Distilled pairs lead real ones by more than both deviations at 1 of 3 levels: "
        "+8.0 (deviations together 1.4) at 1 GFLOP; +0.3 (deviations together 1.4) at 4 GFLOP; "
        "-12.0 (deviations together 1.4) at 16 GFLOP."
    )
    assert page.cautions[-1] == (
        "Left out, since whole epochs miss the level by more than 15 %: full at width 32 with 1 "
        "GFLOP."
    )


def test_the_grid_and_the_charts_have_every_cell(page):
    grid = {row[0]: row[1:] for row in page.tables[1].rows}
    assert grid["full, width 32"] == ("", "21.0 +- 0.7", "31.0 +- 0.7")
    best, made, real = (figure.chart for figure in page.figures)
    assert {line.name for line in best.lines} == {"real pairs", "distilled pairs"}
    assert {line.name for line in real.lines} == {"width 8", "width 32"}
    assert len(made.lines) == 1 and len(made.lines[0].marks) == len(LEVELS)
