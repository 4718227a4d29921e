"""The page of unusual runs: one size, one student, equal scores, refused input."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest

from tasks.reporting.build import build_report
from tasks.reporting.tables import RECALLS


def test_a_run_with_one_size_one_student_and_nothing_distilled_has_a_page(tmp_path, scores, facts):
    small = scores[
        (scores["num_pairs"] == 20)
        & (scores["seed"] == 0)
        & (scores["protocol"] == "strict")
        & (scores["method"] != "bi_trajectory")
    ]
    build_report(small, pd.DataFrame(), pd.DataFrame(), [], facts, tmp_path, published=None)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).lower()
    for sentence in (
        "No set of this report was distilled.",
        "No learning curves were recorded.",
        "No published numbers were given",
    ):
        assert sentence in page


@pytest.mark.parametrize("value", [0.0, 12.5, float("nan"), float("inf")])
def test_students_that_score_the_same_everywhere_have_a_page(
    tmp_path, scores, curves, histories, facts, value
):
    flat = histories.assign(**{name: value for name in histories if name.startswith("loss")})
    names = [*RECALLS, "mean_recall"]
    made = scores["method"] == "bi_trajectory"
    none = scores.assign(**{name: scores[name].where(~made, 0.0) for name in names})
    build_report(
        none, curves.assign(val_mean_recall=value), flat, [], facts, tmp_path, published=None
    )
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\b(nan|inf)\b", page)


def test_the_facts_of_the_run_are_listed(tmp_path, scores, curves, histories, facts):
    told = replace(facts, models=("tiny<1>",), left_out="2 x no picture")
    build_report(scores, curves, histories, [], told, tmp_path, published=None)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for line in (
        "<li>tiny&lt;1&gt;</li>",
        "<dt>Students per set</dt><dd>5</dd>",
        "<dt>Left out</dt><dd>2 x no picture</dd>",
        "<dt>distill</dt><dd>2 h 03 min</dd>",
        "<dt>faiss-cpu</dt><dd>not installed</dd>",
    ):
        assert line in page


def test_refused_input_leaves_no_file_behind(tmp_path, scores, curves, histories, galleries, facts):
    out = tmp_path / "report"
    with pytest.raises(ValueError, match="random selection of 20 pairs is missing"):
        build_report(
            scores[scores["set"] != "random-20"],
            curves,
            histories,
            galleries,
            facts,
            out,
            published=None,
        )
    with pytest.raises(
        ValueError, match=r"histories name sets that have no scores; received \['lors-20'\]"
    ):
        build_report(
            scores, curves, histories.assign(set="lors-20"), galleries, facts, out, published=None
        )
    with pytest.raises(
        ValueError, match=r"curves cannot be plotted without the columns \['epoch'\]"
    ):
        build_report(
            scores, curves.drop(columns="epoch"), histories, galleries, facts, out, published=None
        )
    assert not out.exists()
