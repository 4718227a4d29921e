"""The leaderboard of a sweep: order, deviations, ratios, links to MLflow; and its page in a real
browser.
"""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace

import pytest

from tasks.reporting import leaderboard
from tasks.reporting.leaderboard import DONE, FAILED, OPEN, PRUNED, Leaderboard, Row
from tests.reporting.test_page_in_browser import measure

NAMES = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "mean_recall")
PAGE = "http://127.0.0.1:5000/#/experiments/1/runs"


def row(number: int, val: float, **more: object) -> Row:
    scores = {"val": val, "val_std": 0.5, "n": 2, "seconds": 3.0, "set_bytes": 9000}
    scores |= {name: 10.0 + number for name in NAMES} | {f"{name}_std": 0.25 for name in NAMES}
    scores |= {"recovery": 0.5, "over_random": 1.25, "over_equal_bytes": None, **more}
    name = f"bi_trajectory-4 lr_img={number}"
    return Row(name, f"id{number}", {"distill.matching.lr_img": number}, DONE, scores)


@pytest.fixture
def board() -> Leaderboard:
    rows = [
        Row("failed", "f", {}, FAILED, reason="no <memory> left | at all"),
        replace(row(1, 20.0), page=f"{PAGE}/a?workflowType=machine_learning"),
        Row("open", "o", {}, OPEN),
        row(2, 30.0),
        replace(row(3, 25.0), state=PRUNED, scores={"val": 25.0}),
    ]
    facts = {"profile": "toy", "MLflow": f"{PAGE}?searchFilter=x"}
    return Leaderboard("lr", "toy", rows, "vl-distillery evaluate", facts, facts["MLflow"])


def with_equal_bytes(board: Leaderboard) -> Leaderboard:
    return replace(board, rows=[row(4, 40.0, over_equal_bytes=0.75), *board.rows])


def with_robustness(board: Leaderboard) -> Leaderboard:
    return replace(board, rows=[row(4, 40.0, encoder_robustness=0.62), *board.rows])


def texts(board: Leaderboard, folder) -> dict[str, str]:
    return {path.suffix: path.read_text() for path in leaderboard.write(board, folder)}


def test_cells_are_sorted_by_validation_recall_and_those_without_scores_come_last(board):
    names = [one.id for one in board.ranked]
    assert names == ["id2", "id1", "id3", "o", "f"]
    assert leaderboard.best_of(board.rows).id == "id2"


def test_means_have_their_deviations_and_a_cell_of_one_student_has_none(board):
    alone = replace(board, rows=[row(5, 10.0, val_std=None)])
    assert "| 30.0 +- 0.5 | 12.0 +- 0.2 |" in leaderboard.markdown(board)
    assert "| 10.0 | 15.0 +- 0.2 |" in leaderboard.markdown(alone)


def test_a_cell_that_mlflow_has_is_a_link_and_others_are_words(board, tmp_path):
    found = texts(board, tmp_path)
    page = f"{PAGE}/a?workflowType=machine_learning"
    assert f'<a href="{page}">bi_trajectory-4 lr_img=1</a>' in found[".html"]
    assert f"[bi_trajectory-4 lr_img=1]({page})" in found[".md"]
    assert found[".html"].count("<a href=") == 2 and "searchFilter" in found[".html"]
    rows = list(csv.DictReader(found[".csv"].splitlines()))
    assert [one["page"] for one in rows] == ["", page, "", "", ""]
    assert "no &lt;memory&gt; left" in found[".html"]


def test_a_column_for_equal_bytes_is_there_where_a_cell_has_that_ratio(board, tmp_path):
    assert "equal bytes" not in "".join(texts(board, tmp_path / "without").values())
    found = texts(with_equal_bytes(board), tmp_path / "with")
    assert "| 1.25x | 0.75x | 2 |" in found[".md"] and "0.75&times;" in found[".html"]
    for text in (found[".md"], found[".html"]):
        assert "at equal bytes" in text.lower()
    widths = {len(line.split(" | ")) for line in found[".md"].splitlines() if line[:3] == "| -"}
    assert widths == {12}
    assert next(csv.DictReader(found[".csv"].splitlines()))["over_equal_bytes"] == "0.75"


def test_encoder_robustness_has_a_column_where_a_cell_has_further_students(board, tmp_path):
    assert "robustness" not in leaderboard.markdown(board)
    found = texts(with_robustness(board), tmp_path)
    assert "| 1.25x | 0.62 | 2 |" in found[".md"] and "<td>0.62</td>" in found[".html"]
    assert "\n\n| place | cell |" in found[".md"]
    widths = {len(line.split(" | ")) for line in found[".md"].splitlines() if line[:3] == "| -"}
    assert widths == {12}
    rows = list(csv.DictReader(found[".csv"].splitlines()))
    assert [one["encoder_robustness"] for one in rows][:2] == ["0.62", ""]


def test_columns_of_the_head_and_of_each_row_are_as_many(board, tmp_path):
    for one in (board, with_equal_bytes(board), with_robustness(board)):
        page = texts(one, tmp_path)[".html"]
        lines = [line for line in re.findall(r"<tr>.*?</tr>", page, re.S)]
        assert len({len(re.findall(r"<t[hd][ >]", line)) for line in lines}) == 1


def test_equal_boards_have_equal_bytes(board, tmp_path):
    assert texts(board, tmp_path / "a") == texts(board, tmp_path / "b")


@pytest.mark.services
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a `chromium` on the PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_the_table_scrolls_in_its_box_with_the_cell_kept_in_view(
    board, tmp_path, width
):
    many = [row(number, 10.0 + number) for number in range(60)]
    wide = replace(with_equal_bytes(board), rows=[*many, *board.rows])
    page = next(path for path in leaderboard.write(wide, tmp_path) if path.suffix == ".html")
    page.rename(tmp_path / "index.html")
    found = measure(tmp_path, tmp_path, width)
    assert found["inner"] == width and found["width"] <= width
    assert all(outer <= width for outer, _ in found["boxes"]) and found["smallest"] >= 10
    if width == 390:
        assert found["moved"] in (0, 1)
