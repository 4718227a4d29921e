"""Ceilings of linear heads in the report: reference rows of tables, and nothing else."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tasks.reporting.build import build_report
from tasks.reporting.measures import measured
from tasks.reporting.preset_table import CellScores, build_table, write_table
from tasks.reporting.published import load_published
from tasks.reporting.recall_table import beside, groups_by_size
from tasks.reporting.tables import METRICS, check_scores, notes, order, primary, summarise

DISTILLED = frozenset({"bi_trajectory-20", "bi_trajectory-50"})
NAMES = ("full-ceiling-20", "random-ceiling-20", "full-ceiling-50", "random-ceiling-50")


@pytest.fixture
def with_ceilings(scores) -> pd.DataFrame:
    """The scores with ceilings above every set, one row each."""
    first = scores[(scores["set"] == "full") & (scores["seed"] == 0)]
    rows = []
    for name in (*NAMES, "full-ceiling"):
        label, _, size = name.rpartition("-")
        known = {"method": label, "num_pairs": int(size)} if size.isdigit() else {"method": name}
        unknown = dict.fromkeys(("training_pairs", "num_bytes", "bits"))
        rows.append(first.assign(set=name, chosen_epoch=0, **known, **unknown))
    return pd.concat([scores, *rows], ignore_index=True)


@pytest.fixture
def summary(with_ceilings) -> pd.DataFrame:
    return summarise(check_scores(with_ceilings))


@pytest.fixture
def shown(summary) -> pd.DataFrame:
    return order(primary(summary, "strict", "timm test_vit"), DISTILLED)


def test_ceilings_are_the_last_rows_of_their_size_and_have_no_student(shown):
    sets = list(shown["set"])
    assert sets[4:7] == ["bi_trajectory-20", "full-ceiling-20", "random-ceiling-20"]
    assert sets[-4:] == ["full-ceiling-50", "random-ceiling-50", "full", "full-ceiling"]
    found = shown.set_index("set")
    assert set(found.loc[[*NAMES, "full-ceiling"], "n"]) == {0}
    assert found.loc["full-ceiling-20", ["recovery", "over_random"]].notna().all()
    assert found.loc["full-ceiling", METRICS[0]] > 0


def test_no_ceiling_is_marked_as_best_and_sets_still_are(shown):
    groups = groups_by_size(shown, DISTILLED)
    assert [group.title for group in groups] == ["20 pairs", "50 pairs", "Full data, 6000 pairs"]
    for group in groups[:2]:
        marked = {row.method for row in group.rows if row.numbers["mean_recall"].is_best}
        assert marked == {"bi_trajectory"}


def test_a_note_says_what_they_are_and_they_are_no_measured_set(shown, summary, scores):
    assert "linear heads of the full data in closed form" in notes(shown)
    assert notes(summarise(check_scores(scores))) == ""
    found = measured(summary, "strict", "timm test_vit")
    assert not found["set"].str.contains("ceiling").any()


def test_published_numbers_stand_beside_sets_alone(shown):
    published = load_published()
    theirs = published[published["budget"] == "100"].assign(budget="20").head(2)
    (group,) = beside(theirs, shown, DISTILLED)
    assert not [row for row in group.rows if row.method.endswith("-ceiling")]


def test_the_report_has_their_rows_and_draws_and_says_what_it_did_without(
    scores, with_ceilings, curves, histories, galleries, facts, tmp_path
):
    pages = []
    for name, frame in (("without", scores), ("with", with_ceilings)):
        out = tmp_path / name
        build_report(frame, curves, histories, galleries, facts, out, published=None)
        pages.append((out / "index.html").read_text())
    assert "random-ceiling</th>" in pages[1] and "full-ceiling</th>" in pages[1]
    for start, end in (('<p class="lead">', "</p>"), ("<figure>", "</figure>")):
        without, beside_them = (page.partition(start)[2].partition(end)[0] for page in pages)
        assert without and without == beside_them
    metrics = json.loads((tmp_path / "with" / "metrics.json").read_text())
    assert metrics["full-ceiling-20"]["mean_recall"] > 0


def test_a_preset_table_has_their_rows_and_their_note(with_ceilings, tmp_path):
    rows = with_ceilings.assign(folder=with_ceilings["set"] + "/" + with_ceilings["student"])
    cell = CellScores(rows, "timm test_vit", "strict", DISTILLED, is_as_published=False)
    table = build_table("name", "title", "toy", {"cell": cell}, load_published(), {})
    for path in write_table(table, tmp_path):
        assert "random-ceiling" in path.read_text()
    for ending in ("md", "html"):
        text = (tmp_path / f"name.{ending}").read_text()
        assert "Students with hidden layers can be better" in text
