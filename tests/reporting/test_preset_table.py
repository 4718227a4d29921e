"""The table of a preset: a shared set once, ratios within a cell, published numbers only beside the
same setting, same bytes.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from tasks.reporting.preset_table import CellScores, build_table, write_table
from tasks.reporting.published import FOLDER, load_published
from tasks.reporting.tables import ABOVE_FULL

FACTS = {"profile": "flickr30k", "commit of the scores": "abc"}


@pytest.fixture
def cells(scores) -> dict[str, CellScores]:
    """Two cells that share all but the distilled sets; of the second these are half as good."""
    frame = scores[scores["method"].isin(["random", "bi_trajectory", "full"])].replace(
        {"num_pairs": {20: 100, 50: 200}}
    )
    frame["set"] = frame["set"].str.replace("-20", "-100").str.replace("-50", "-200")
    names = frozenset({"bi_trajectory-100", "bi_trajectory-200"})

    def cell(name: str, factor: float) -> CellScores:
        own = frame.copy()
        is_made = own["set"].isin(names)
        places = zip(is_made, own["set"], own["student"], strict=True)
        own["folder"] = [
            f"scores/{name if made else 'base'}/{one}/{student}" for made, one, student in places
        ]
        own.loc[is_made, ["mean_recall"]] *= factor
        return CellScores(own, "timm test_vit", "strict", names, is_as_published=True)

    return {"both": cell("both", 1.0), "image": cell("image", 0.5)}


def build(cells: dict[str, CellScores], dataset: str = "flickr30k"):
    return build_table("single_modality", "One modality", dataset, cells, load_published(), FACTS)


def test_a_shared_set_stands_once_and_others_name_their_cell(cells):
    ours = build(cells).ours
    assert list(zip(ours["label"], ours["num_pairs"], strict=True)) == [
        ("random", 100),
        ("bi_trajectory (both)", 100),
        ("bi_trajectory (image)", 100),
        ("random", 200),
        ("bi_trajectory (both)", 200),
        ("bi_trajectory (image)", 200),
        ("full", 6000),
    ]
    both, image = ours["over_random"][1], ours["over_random"][2]
    assert image == pytest.approx(both / 2)


def test_what_a_further_student_scored_stands_apart_beside_its_own_random_and_full_data(
    cells, tmp_path
):
    table = build(cells)
    assert set(table.ours["student"]) == {"timm test_vit"} and list(table.others) == [
        "timm test_resnet"
    ]
    other = table.others["timm test_resnet"]
    assert list(other["label"]) == list(table.ours["label"]) and set(other["n"]) == {3}
    assert list(other.loc[other["method"] == "random", "over_random"]) == [1.0, 1.0]
    assert (
        other["recovery"].iloc[-1] == 1.0
        and other["mean_recall"].iloc[-1] < table.ours["mean_recall"].iloc[-1]
    )
    csv, markdown, page = write_table(table, tmp_path)
    assert list(
        pd.read_csv(csv)["student"].value_counts()[["timm test_vit", "timm test_resnet"]]
    ) == [7, 7]
    for path in (markdown, page):
        assert "The same sets under another student, timm test_resnet" in path.read_text()
    assert markdown.read_text().count("| bi_trajectory (image) | 200 |") == 2
    assert page.read_text().count("bi_trajectory (image)") >= 2


def test_a_student_that_one_cell_alone_has_is_no_reason_to_name_the_cell(cells):
    alone = cells["image"].scores["student"] == "timm test_vit"
    other = build(
        {**cells, "image": replace(cells["image"], scores=cells["image"].scores[alone])}
    ).others["timm test_resnet"]
    assert list(other["label"]) == ["random", "bi_trajectory", "random", "bi_trajectory", "full"]


def test_a_small_set_above_full_data_is_said_to_say_nothing(cells, tmp_path):
    texts = [path.read_text() for path in write_table(build(cells), tmp_path / "below")[1:]]
    assert not any(ABOVE_FULL[:40] in text for text in texts)
    frame = cells["both"].scores.copy()
    frame.loc[frame["method"] == "full", "mean_recall"] /= 9
    texts = [
        path.read_text()
        for path in write_table(
            build({"both": replace(cells["both"], scores=frame)}), tmp_path / "above"
        )[1:]
    ]
    assert all(text.count(ABOVE_FULL[:40]) == 2 for text in texts)  # under each student's table


def test_published_numbers_stand_beside_the_same_setting_alone(cells):
    found = build(cells).published
    assert set(zip(found["cell"], found["method"], found["budget"], strict=True)) >= {
        ("both", "bi_trajectory", "100"),
        ("both", "bi_trajectory", "200"),
        ("image", "bi_trajectory; image only", "100"),
    }
    other = {**cells, "image": replace(cells["image"], is_as_published=False)}
    assert set(build(other).published["cell"]) == {"both"}
    assert build(cells, "flickr8k").published.empty


def test_every_row_of_the_mapping_is_a_published_number():
    known = {(row.source, row.method) for row in load_published().itertuples()}
    assert {
        (row.source, row.method) for row in pd.read_csv(FOLDER / "presets.csv").itertuples()
    } <= known


def test_the_same_scores_give_the_same_bytes_in_three_formats(cells, tmp_path):
    first, second = (write_table(build(cells), tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == [
        "single_modality.csv",
        "single_modality.md",
        "single_modality.html",
    ]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    text = first[1].read_text()
    assert (
        "| bi_trajectory (image) | 100 |" in text
        and "bi_trajectory; image only | 100 |" in text
        and "Protocol strict" in text
    )
    page = first[2].read_text()
    assert "bi_trajectory (both)" in page and "VLDD ablations" in page
    rows = pd.read_csv(first[0])
    assert max(len(line) for line in first[0].read_text().splitlines()) < 300  # ten digits
    assert set(rows["source"].dropna()) == {
        "VLDD table 1 (arXiv 2308.07545; slides)",
        "VLDD ablations (slides)",
    }


def test_measures_of_a_set_are_those_of_its_own_cell(cells, tmp_path):
    table = build(cells)
    place = ["label", "num_pairs"]
    ours, others = (
        rows.set_index(place) for rows in (table.ours, table.others["timm test_resnet"])
    )
    found = ours["encoder_robustness"].dropna()
    gains = others["gain_over_random"] / ours["gain_over_random"]
    assert found.to_dict() == pytest.approx(gains[found.index].to_dict())
    both, image = (found[f"bi_trajectory ({cell})", 100] for cell in cells)
    assert both != image
    csv, markdown, page = write_table(table, tmp_path)
    assert "encoder_robustness" in pd.read_csv(csv) and "hlr" not in pd.read_csv(csv)
    recovery = ours["recovery"]["bi_trajectory (both)", 100]
    text = f"| bi_trajectory (both)-100 | {100 * recovery:.1f} |"
    assert text in markdown.read_text() and "<h3>Measures</h3>" in page.read_text()
