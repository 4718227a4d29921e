"""Published facts: read as printed, cited by source, joined by dataset and budget."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from tasks.reporting import published
from tasks.reporting.published import FOLDER, gap, load_published, same_budget


def our_row(method: str, num_pairs: int, value: float, random: float) -> dict:
    return {
        "set": f"{method}-{num_pairs}",
        "method": method,
        "num_pairs": num_pairs,
        "protocol": "strict",
        "mean_recall": value,
        "over_random": value / random,
        "gain_over_random": value - random,
    }


@pytest.fixture
def shown() -> pd.DataFrame:
    full = {**our_row("full", 6000, 50.0, 1.0), "set": "full", "over_random": math.nan}
    return pd.DataFrame(
        [our_row("random", 100, 5.0, 5.0), our_row("bi_trajectory", 100, 11.0, 5.0), full]
    )


def published_row(
    table: pd.DataFrame, dataset: str, budget: str, method: str, source: str
) -> pd.Series:
    is_it = (
        (table["dataset"] == dataset) & (table["budget"] == budget) & (table["method"] == method)
    )
    (row,) = table[is_it & table["source"].str.startswith(source)].to_dict("records")
    return pd.Series(row)


def test_the_mean_of_six_published_recalls_is_their_mean():
    row = published_row(load_published(), "flickr30k", "100", "bi_trajectory", "VLDD table 1")
    assert list(row[["i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"]]) == [
        9.9,
        28.3,
        39.1,
        4.7,
        15.7,
        24.6,
    ]
    assert row["mean_recall"] == pytest.approx(122.3 / 6)


def test_a_metric_of_ours_that_nobody_published_leaves_the_published_means(monkeypatch):
    before = load_published()["mean_recall"]
    for name in ("RECALLS", "METRICS"):
        monkeypatch.setattr(published, name, (*getattr(published, name), "i2t_r50"))
    after = load_published()
    assert after["i2t_r50"].isna().all()
    pd.testing.assert_series_equal(after["mean_recall"], before)


def test_a_source_that_prints_only_the_mean_has_no_recalls():
    row = published_row(load_published(), "flickr8k", "100", "mdm", "MDM")
    assert row["mean_recall"] == 21.9
    assert math.isnan(row["i2t_r1"])


def test_every_published_row_names_its_source_and_protocol_and_lies_in_range():
    table = load_published()
    assert len(table) > 100
    assert table[["source", "protocol", "dataset", "budget", "method"]].notna().all(axis=None)
    assert table["mean_recall"].dropna().between(0, 100).all()
    assert not table.duplicated(["source", "dataset", "budget", "method"]).any()


def test_a_source_without_a_protocol_is_refused(tmp_path):
    for name in ("recall.csv", "mean_recall.csv", "protocols.csv"):
        lines = (FOLDER / name).read_text().splitlines()
        (tmp_path / name).write_text(
            "\n".join(line for line in lines if name != "protocols.csv" or "RAHA (" not in line)
            + "\n"
        )
    with pytest.raises(
        ValueError, match=r"without a protocol; received.*RAHA \(ECCV.*protocols\.csv"
    ):
        load_published(tmp_path)


def test_only_the_same_dataset_and_budget_stand_beside_ours_with_full_data_last(shown):
    rows = same_budget(load_published(), "flickr8k", shown)
    assert [
        (row["budget"], row["method"], row["mean_recall"]) for row in rows.to_dict("records")
    ] == [
        ("100", "random", 6.6),
        ("100", "lors", 19.4),
        ("100", "mdm", 21.9),
        ("full", "full", 53.8),
    ]
    assert list(rows["over_random"][:3]) == pytest.approx([1.0, 19.4 / 6.6, 21.9 / 6.6])
    assert math.isnan(rows["over_random"][3])


def test_a_ratio_is_taken_within_one_source(shown):
    rows = same_budget(load_published(), "flickr30k", shown)
    covmatch = rows[rows["method"] == "covmatch"]
    assert list(covmatch["over_random"]) == pytest.approx([30.5 / 8.6])
    lors = rows[(rows["method"] == "lors") & rows["source"].str.startswith("LoRS")]
    assert len(lors) == 1 and lors["over_random"].isna().all()


def test_the_gap_lists_ours_then_the_same_budget_then_the_paper_as_another_dataset(shown):
    rows = gap(load_published(), "flickr8k", shown, frozenset({"bi_trajectory-100"}))
    assert [(row.source[:3], row.dataset, row.method, row.is_other_dataset) for row in rows] == [
        ("", "flickr8k", "bi_trajectory", False),
        ("MDM", "flickr8k", "lors", False),
        ("MDM", "flickr8k", "mdm", False),
        ("VLD", "flickr30k", "bi_trajectory", True),
    ]
    assert [row.ratio for row in rows] == pytest.approx([2.2, 19.4 / 6.6, 21.9 / 6.6, 122.3 / 28.8])
    assert rows[0].random == pytest.approx(5.0)


def test_the_papers_row_is_no_other_dataset_and_not_repeated_on_its_own_dataset(shown):
    rows = [
        row
        for row in gap(load_published(), "flickr30k", shown, frozenset())
        if row.method == "bi_trajectory"
    ]
    assert [(row.source[:4], row.is_other_dataset) for row in rows] == [("VLDD", False)]


def test_toy_has_no_published_numbers_of_its_own(shown):
    assert same_budget(load_published(), "toy", shown).empty
    assert [
        row.is_other_dataset
        for row in gap(load_published(), "toy", shown, frozenset({"bi_trajectory-100"}))
    ] == [False, True]


def test_without_published_numbers_the_gap_is_ours_alone(shown):
    assert [
        row.source for row in gap(None, "flickr8k", shown, frozenset({"bi_trajectory-100"}))
    ] == [""]
