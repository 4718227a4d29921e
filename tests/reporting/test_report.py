"""The whole report: its files, its bytes, its escaping, and that its numbers are those of the
input.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tasks.reporting.build import build_report
from tasks.reporting.gallery import Gallery
from tasks.reporting.published import load_published
from tasks.reporting.tables import ABOVE_FULL, RECALLS
from tests.reporting.pages import parse

FILES = (
    "index.html",
    "metrics.json",
    "plots/distillation.csv",
    "plots/learning_curves.csv",
    "plots/recall.csv",
    "tables/cross_architecture.csv",
    "tables/measures.csv",
    "tables/scores.csv",
    "tables/summary.csv",
)


def test_the_report_has_these_files_and_no_others(report):
    assert sorted(
        str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()
    ) == sorted(FILES)


def test_same_input_in_any_row_order_gives_the_same_bytes(
    report, tmp_path, scores, curves, histories, galleries, facts
):
    shuffled = [frame.sample(frac=1.0, random_state=3) for frame in (scores, curves, histories)]
    build_report(*shuffled, galleries, facts, tmp_path / "again", published=load_published())
    for name in FILES:
        assert (report / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_the_page_is_below_three_megabytes_and_fetches_nothing(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 3_000_000
    assert "default-src 'none'" in page
    assert "script" not in parse(report).tags and "link" not in parse(report).tags
    assert re.findall(r"""(?:src|href)=["'](?!#|data:|tables/|plots/|metrics)[^"']*""", page) == []


def test_every_cell_of_the_main_table_is_the_mean_and_deviation_of_the_scores(report, scores):
    ours = scores[(scores["student"] == "timm test_vit") & (scores["protocol"] == "strict")]
    sizes = [20] * 5 + [50] * 5 + [6000]
    full = ours.loc[ours["method"] == "full", "mean_recall"].mean()
    rows = parse(report).tables[0]
    assert len(rows) == len(sizes)
    for (method, cells), size in zip(rows, sizes, strict=True):
        group = ours[(ours["method"] == method) & (ours["num_pairs"] == size)]
        expected = [
            f"{group[name].mean():.1f} \u00b1 {group[name].std():.1f}"
            for name in ("mean_recall", *RECALLS)
        ]
        random = ours.loc[
            (ours["method"] == "random") & (ours["num_pairs"] == size), "mean_recall"
        ].mean()
        ratio = "\u2013" if method == "full" else f"{group['mean_recall'].mean() / random:.2f}"
        recovery = f"{100 * group['mean_recall'].mean() / full:.1f}"
        size_mb = "\u2013" if method == "full" else f"{size / 1000:.2f}"
        told = [str(len(group)), str(group["num_pairs"].iloc[0]), size_mb, "8"]
        assert cells == [expected[0], ratio, recovery, *expected[1:], *told]


def test_the_parts_of_a_history_reach_the_page(
    tmp_path, scores, curves, histories, galleries, facts
):
    parted = histories.assign(is_warm_start=(histories["iteration"] < 100).astype(float))
    build_report(scores, curves, parted, galleries, facts, tmp_path / "parted", published=None)
    page = (tmp_path / "parted" / "index.html").read_text()
    assert (
        page.count("bi_trajectory-20, warm start") >= 1
        and page.count("bi_trajectory-50, warm start") >= 1
    )


def test_a_set_without_learned_step_sizes_has_a_loss_and_no_step_sizes(
    tmp_path, scores, curves, histories, galleries, facts
):
    sizes = ["step_size_img", "step_size_txt"]
    mixed = histories.copy()
    mixed.loc[mixed["set"] == "bi_trajectory-50", sizes] = float("nan")
    for name, frame, count in (("mixed", mixed, 7), ("none", histories.drop(columns=sizes), 6)):
        build_report(scores, curves, frame, galleries, facts, tmp_path / name, published=None)
        page = (tmp_path / name / "index.html").read_text(encoding="utf-8")
        assert page.count("<desc id=") == count


def test_no_number_of_the_results_survives_a_change_of_the_scores(
    report, tmp_path, scores, curves, histories, galleries, facts
):
    names = [*RECALLS, "mean_recall"]
    changed = scores.assign(**{name: 7.0 + scores[name] / 1.83 for name in names})
    build_report(changed, curves, histories, galleries, facts, tmp_path / "other", published=None)

    def head(folder: Path) -> list[str]:
        return re.findall(
            r"\d+\.\d+",
            (folder / "index.html")
            .read_text(encoding="utf-8")
            .split("<body>")[1]
            .split("</header>")[0],
        )

    assert len(head(report)) == len(head(tmp_path / "other")) >= 8
    # Half of full data's deviation may round to the same digit; the recalls and ratios may not.
    assert (
        sum(one == other for one, other in zip(head(report), head(tmp_path / "other"), strict=True))
        <= 1
    )


def test_metrics_and_plots_repeat_the_summary(report):
    metrics = json.loads((report / "metrics.json").read_text())
    summary = pd.read_csv(report / "tables" / "summary.csv")
    recall = pd.read_csv(report / "plots" / "recall.csv")
    ours = summary[
        (summary["student"] == "timm test_vit") & (summary["protocol"] == "strict")
    ].set_index("set")
    assert set(metrics) == set(ours.index)
    for name, entry in metrics.items():
        assert entry["mean_recall"] == pytest.approx(ours.loc[name, "mean_recall"], abs=1e-4)
    assert sorted(recall["mean_recall"]) == pytest.approx(sorted(ours["mean_recall"]))
    assert list(recall.columns) == ["method", "num_pairs", "mean_recall"]
    assert list(pd.read_csv(report / "plots" / "learning_curves.csv").columns) == [
        "set",
        "epoch",
        "val_mean_recall",
    ]
    assert len(pd.read_csv(report / "plots" / "distillation.csv")) == 800


def test_the_page_says_that_a_share_above_full_data_says_nothing(
    report, tmp_path, scores, curves, histories, galleries, facts
):
    note = html.escape(ABOVE_FULL).replace("&#x27;", "&#39;")
    assert note not in (report / "index.html").read_text()
    poor = scores.assign(
        mean_recall=scores["mean_recall"].where(
            scores["method"] != "full", scores["mean_recall"] / 9
        )
    )
    build_report(poor, curves, histories, galleries, facts, tmp_path / "poor", published=None)
    assert note in (tmp_path / "poor" / "index.html").read_text()


def test_the_cross_architecture_table_shows_every_set_under_every_student_and_the_main_table_one(
    report,
):
    written = pd.read_csv(report / "tables" / "cross_architecture.csv")
    rows = parse(report).tables[1]
    assert [heading for heading, _ in rows] == list(dict.fromkeys(written["set"]))
    for name, cells in rows:
        expected = []
        for row in written[written["set"] == name].to_dict("records"):
            ratio = "\u2013" if name == "full" else f"{row['over_random']:.2f}"
            expected += [
                f"{row['mean_recall']:.1f} \u00b1 {row['mean_recall_std']:.1f}",
                ratio,
                f"{100 * row['recovery']:.1f}",
            ]
        assert cells == expected
    assert list(written["student"])[:2] == ["timm test_vit", "timm test_resnet"]
    assert set(written["protocol"]) == {"strict"}


def test_a_run_with_one_student_has_no_cross_architecture_table(
    tmp_path, scores, curves, histories, galleries, facts
):
    build_report(
        scores[scores["student"] == "timm test_vit"],
        curves,
        histories,
        galleries,
        facts,
        tmp_path,
        published=None,
    )
    assert not (tmp_path / "tables" / "cross_architecture.csv").exists()
    assert "ross-architecture" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_captions_and_names_are_escaped(tmp_path, scores, curves, histories, galleries, facts):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    row = replace(galleries[0].rows[0], initial_caption=evil, nearest_sentence=evil)
    bad = [Gallery(galleries[0].set, (row,))]
    build_report(
        scores,
        curves,
        histories,
        bad,
        replace(facts, profile=evil, machine=evil),
        tmp_path,
        published=None,
    )
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    parser = parse(tmp_path)
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 6
    assert any(alt and evil in alt for alt in parser.alts)


def test_every_picture_has_a_text_and_every_reference_a_target(report):
    parser = parse(report)
    assert len(parser.alts) == 48 and all(parser.alts)
    assert all(parser.scopes)
    assert len(parser.ids) == len(set(parser.ids))
    assert set(parser.references) <= set(parser.ids)
    page = (report / "index.html").read_text(encoding="utf-8")
    assert page.count('<svg viewBox="0 0 400') == page.count("<desc id=") == 8


def test_the_protocol_is_named_in_the_caption_of_every_table(report):
    captions = re.findall(
        r"<caption[^>]*>(.*?)</caption>", (report / "index.html").read_text(encoding="utf-8")
    )
    assert len(captions) == 5
    assert all("rotocol" in caption or "source" in caption for caption in captions)


def test_toy_shows_the_papers_ratio_as_another_dataset(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "No published numbers for toy" in page
    heading, cells = parse(report).tables[3][-1]
    assert heading == "bi_trajectory"
    assert cells[0] == "flickr30k, 100 another dataset"
    assert cells[1].startswith("4.25")
    assert cells[4:] == ["VLDD table 1 (arXiv 2308.07545; slides)", "not stated in the table"]


def test_published_numbers_of_the_same_dataset_and_budget_stand_beside_ours(
    tmp_path, scores, curves, facts
):
    hundred = scores.assign(
        num_pairs=scores["num_pairs"].replace({20: 100, 50: 300}),
        set=scores["set"].str.replace("-20", "-100"),
    )
    build_report(
        hundred,
        curves.iloc[:0],
        pd.DataFrame(),
        [],
        replace(facts, dataset="flickr8k"),
        tmp_path,
        published=load_published(),
    )
    cited = [
        (name, cells[0])
        for name, cells in parse(tmp_path).tables[3]
        if cells[2] == "MDM (CVPR 2026) table 1"
    ]
    assert cited == [("random", "6.6"), ("lors", "19.4"), ("mdm", "21.9"), ("full", "53.8")]


def test_learning_curves_are_those_of_the_student_and_protocol_that_is_shown(
    report, tmp_path, scores, curves, histories, galleries, facts
):
    mixed = pd.concat(
        [
            curves.assign(student="timm test_vit", protocol="strict"),
            curves.assign(student="timm test_resnet", protocol="strict", val_mean_recall=1.0),
            curves.assign(student="timm test_vit", protocol="last", val_mean_recall=2.0),
        ]
    )
    build_report(
        scores, mixed, histories, galleries, facts, tmp_path / "mixed", published=load_published()
    )
    assert (tmp_path / "mixed" / "index.html").read_bytes() == (report / "index.html").read_bytes()
