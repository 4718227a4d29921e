"""A decoded set in the report: a row below its own, drawn in its colour, and no coreset."""

from __future__ import annotations

import pandas as pd
import pytest

from tasks.reporting.build import build_report
from tasks.reporting.figures import method_styles
from tasks.reporting.headline import headline
from tasks.reporting.preset_table import CellScores, build_table, write_table
from tasks.reporting.published import load_published
from tasks.reporting.tables import check_scores, notes, order, primary, summarise

DISTILLED = frozenset({"bi_trajectory-20", "bi_trajectory-50"})


@pytest.fixture
def with_decoded(scores) -> pd.DataFrame:
    """The scores with a decoded row for each distilled set, better than every coreset."""
    rows = scores[scores["method"] == "bi_trajectory"].copy()
    rows["method"] = "bi_trajectory-decoded"
    rows["set"] = "bi_trajectory-decoded-" + rows["num_pairs"].astype(str)
    recalls = [name for name in rows if "_r" in name and name != "val_mean_recall"]
    rows[recalls] *= 0.9
    return pd.concat([scores, rows], ignore_index=True)


@pytest.fixture
def shown(with_decoded) -> pd.DataFrame:
    summary = summarise(check_scores(with_decoded))
    return order(primary(summary, "strict", "timm test_vit"), DISTILLED)


def test_a_decoded_row_stands_below_its_own_set(shown):
    assert list(shown["method"])[4:7] == ["bi_trajectory", "bi_trajectory-decoded", "random"]
    assert shown["num_pairs"].iloc[5] == 20 and shown["method"].iloc[-2] == "bi_trajectory-decoded"


def test_a_note_says_what_it_is_and_stands_nowhere_else(shown, scores):
    assert "what words are worth" in notes(shown)
    assert notes(summarise(check_scores(scores))) == ""


def test_the_headline_names_it_and_takes_it_for_no_coreset(shown):
    found = headline(shown, DISTILLED)
    assert found.best["set"] == "bi_trajectory-50" and found.rival["method"] == "k_center"
    in_words = shown.set_index("set").loc["bi_trajectory-decoded-50", "mean_recall"]
    told = f"With the nearest training sentences in place of its texts it reaches {in_words:.1f}."
    assert told in found.sentence


def test_its_line_has_the_colour_of_its_set_and_others_keep_theirs(shown):
    styles = method_styles(shown, DISTILLED)
    own, decoded = styles["bi_trajectory"], styles.pop("bi_trajectory-decoded")
    assert decoded.colour == own.colour and decoded.dash != own.dash
    plain = shown[~shown["method"].str.endswith("-decoded")]
    assert method_styles(plain, DISTILLED) == styles


def test_tables_of_the_report_have_its_row(
    with_decoded, curves, histories, galleries, facts, tmp_path
):
    build_report(with_decoded, curves, histories, galleries, facts, tmp_path, published=None)
    for name in ("tables/summary.csv", "tables/cross_architecture.csv", "metrics.json"):
        assert "bi_trajectory-decoded-20" in (tmp_path / name).read_text()


def test_a_preset_table_has_its_row_and_its_note(with_decoded, tmp_path):
    rows = with_decoded.assign(folder=with_decoded["set"] + "/" + with_decoded["student"])
    cell = CellScores(rows, "timm test_vit", "strict", DISTILLED, is_as_published=False)
    table = build_table("name", "title", "toy", {"cell": cell}, load_published(), {})
    for path in write_table(table, tmp_path):
        assert "bi_trajectory-decoded" in path.read_text()
    for ending in ("md", "html"):
        assert "what words are worth" in (tmp_path / f"name.{ending}").read_text()
