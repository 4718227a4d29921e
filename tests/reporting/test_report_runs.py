"""The page of unusual runs: one size, one student, equal scores, refused input."""

from __future__ import annotations

import re

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


def test_models_are_listed_by_role_or_as_plain_names(tmp_path, scores, curves, histories, facts):
    for name, models in (("roles", {"image_encoder": "tiny<1>"}), ("names", ["tiny<1>"])):
        build_report(
            scores,
            curves,
            histories,
            [],
            {**facts, "models": models},
            tmp_path / name,
            published=None,
        )
        assert "tiny&lt;1&gt;" in (tmp_path / name / "index.html").read_text(encoding="utf-8")


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
    with pytest.raises(ValueError, match=r"facts of the run are missing.*commit"):
        build_report(
            scores,
            curves,
            histories,
            galleries,
            {k: v for k, v in facts.items() if k != "commit"},
            out,
            published=None,
        )
    assert not out.exists()
