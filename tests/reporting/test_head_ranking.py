"""The page of `architecture_search` says what made-up scores hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.core.evaluation.agreement import agreement
from tasks.reporting.head_ranking import Notes, build
from tasks.reporting.study_page import write_pages

HEADS = [f"w{width}-h{layers}" for width in (16, 32, 64, 128) for layers in (0, 1, 2)]
NOTES = Notes(
    {"full": 9e6, "made-5": 1e6, "random-5": 4e4, "random-120": 1e6}, {"made-5": "random-120"}, 90
)
SIZES = {"full": 1200, "made-5": 5, "random-5": 5, "random-120": 120}
TITLE = ("architecture_search", "Heads", "toy")


@pytest.fixture
def scores():
    """Recall rises with the head's place; a set's noise says how well it ranks."""
    draw, rows = np.random.default_rng(2), []
    noise = {"full": 0.8, "made-5": 1.5, "random-5": 30.0, "random-120": 0.5}
    for name, spread in noise.items():
        for place, head in enumerate(HEADS):
            for seed in range(3):
                val = 10 + place + spread * draw.standard_normal()
                row = {"set": name, "num_pairs": SIZES[name], "head": head}
                row |= {"seed": seed, "val_mean_recall": val, "seconds": 2.0}
                rows.append({**row, "mean_recall": val - 1.0})
    return pd.DataFrame(rows)


def _page(scores, notes=NOTES):
    return build(*TITLE, scores, notes, {"profile": "toy"})


def test_the_reading_has_the_numbers_of_the_scores(scores):
    page = _page(scores)

    def by_head(name, column):
        rows = scores[scores["set"] == name]
        return rows.pivot(index="seed", columns="head", values=column)[HEADS].to_numpy()

    truth = by_head("full", "mean_recall")
    tau = {name: agreement(by_head(name, "val_mean_recall"), truth).tau for name in NOTES.num_bytes}
    first, same, equal, upper, choice, cost = page.reading
    assert f"made-5 ranks the 12 heads with tau {tau['made-5']:.2f}" in first
    assert f"of a ceiling of {tau['full']:.2f}" in first
    assert f"5 random pairs reach {tau['random-5']:.2f}" in same
    assert "made-5 ranks better than random-5: +" in same
    assert f"120 random pairs, which take the same 1.00 MB, reach {tau['random-120']:.2f}" in equal
    half = truth.mean(axis=0).argsort()[::-1][:6]
    of_half = agreement(by_head("made-5", "val_mean_recall")[:, half], truth[:, half]).tau
    assert f"Among the better half of the heads tau is {of_half:.2f}" in upper
    best = truth.mean(axis=0).max()
    assert f"of {best:.1f} points" in choice
    assert f"A head taken blindly loses {best - truth.mean():.2f} on average" in choice
    assert "72 s on made-5" in cost


def test_mlflow_is_told_the_rows_of_the_table(scores):
    page = _page(scores)
    assert list(page.numbers) == [row[0].removesuffix(" (ceiling)") for row in page.tables[0].rows]
    made, full = page.numbers["made-5"], page.numbers["full"]
    assert made["study/of_ceiling"] == pytest.approx(made["study/tau"] / full["study/tau"])
    assert made["study/tau_low"] <= made["study/tau"] <= made["study/tau_high"]
    assert (made["study/set_bytes"], made["study/seconds"]) == (1e6, 72.0)


def test_a_ceiling_at_chance_is_no_measure_for_a_share(scores):
    # Full data turned about in every second student: their rankings cancel out
    is_full = scores["set"] == "full"
    turned = is_full & (scores["seed"] > 0)
    scores.loc[turned, "val_mean_recall"] = 30.0 - scores.loc[turned, "val_mean_recall"]
    page = _page(scores)
    column = page.tables[0].columns.index("of the ceiling")
    assert {row[column] for row in page.tables[0].rows} == {""}
    assert "study/of_ceiling" not in page.numbers["made-5"]


def test_equal_sets_show_no_difference_and_a_worse_one_is_told(scores):
    swapped = {"made-5": "random-5", "random-5": "made-5"}
    renamed = scores.assign(set=scores["set"].replace(swapped))
    assert "made-5 ranks worse than random-120: -" in _page(renamed).reading[2]
    of_made = scores[scores["set"] == "made-5"].assign(set="random-120", num_pairs=120)
    others = scores[scores["set"] != "random-120"]
    same = _page(pd.concat([others, of_made], ignore_index=True))
    assert "No difference to random-120 is shown: +0.00 (0.00 to 0.00)" in same.reading[2]


def test_random_pairs_that_are_all_there_are_are_called_so(scores):
    rows = scores.assign(num_pairs=scores["num_pairs"].replace(120, 1200))
    text = _page(rows).reading[2]
    assert "1200 random pairs, which take 1.00 MB, all that there are for the same 1.00 MB" in text


def test_tables_and_charts_have_every_set_and_every_head(scores):
    page = _page(scores)
    sets, heads = page.tables
    assert [row[0] for row in sets.rows] == ["full (ceiling)", "made-5", "random-5", "random-120"]
    assert {row[0] for row in heads.rows} == set(HEADS) and heads.rows[0][0] in HEADS[-2:]
    recall, cost = (figure.chart for figure in page.figures)
    assert {line.name for line in recall.lines} == set(NOTES.num_bytes)
    assert all(len(line.marks) == len(HEADS) for line in recall.lines)
    assert all(len(line.bars) == 1 for line in cost.lines)


def test_pages_are_the_same_bytes_for_the_same_scores(scores, tmp_path):
    first = write_pages(_page(scores), tmp_path / "a")
    second = write_pages(_page(scores), tmp_path / "b")
    assert [path.name for path in first] == [
        f"architecture_search.{e}" for e in ("csv", "md", "html")
    ]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert len(pd.read_csv(first[0])) == len(scores)
    hostile = write_pages(_page(scores.replace("w16-h0", "<b>&")), tmp_path / "c")
    assert "<b>&" not in hostile[2].read_text()
