"""Chart geometry against coordinates worked out by hand, and the contrast of every colour."""

from __future__ import annotations

import itertools
import math
import re

import pandas as pd
import pytest

from tasks.reporting import figures
from tasks.reporting.charts import (
    BOTTOM,
    HEIGHT,
    LABEL_STEP,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    Style,
    line_chart,
    round_ticks,
)
from tasks.reporting.page import TEMPLATES
from tasks.reporting.tables import check_scores, primary, summarise

STYLE = Style("#000000")
WORDS = {"title": "t", "summary": "s", "x_label": "x", "y_label": "y"}


def test_values_are_placed_linearly_between_the_outer_ticks():
    chart = line_chart([Series("a", ((0.0, 0.0), (5.0, 5.0), (10.0, 10.0)), STYLE)], **WORDS)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    assert chart.lines[0].marks == (
        (LEFT, bottom),
        ((LEFT + right) / 2, (bottom + TOP) / 2),
        (right, TOP),
    )
    assert [tick.text for tick in chart.y_ticks] == ["0", "2", "4", "6", "8", "10"]


def test_on_a_logarithmic_axis_equal_factors_are_equal_steps():
    chart = line_chart(
        [Series("a", ((10.0, 1.0), (100.0, 2.0), (1000.0, 3.0)), STYLE)],
        x_values=(10, 100, 1000),
        is_log_x=True,
        **WORDS,
    )
    first, middle, last = (x for x, _ in chart.lines[0].marks)
    assert middle - first == pytest.approx(last - middle, abs=0.02)
    assert [tick.at for tick in chart.x_ticks] == [first, middle, last]


def test_an_error_bar_spans_one_deviation_each_way_and_none_is_drawn_for_nan():
    chart = line_chart(
        [Series("a", ((0.0, 4.0), (1.0, 6.0)), STYLE, spread=(math.nan, 2.0))], **WORDS
    )
    ((_, top, bottom),) = chart.lines[0].bars
    by_text = {tick.text: tick.at for tick in chart.y_ticks}
    assert (top, bottom) == (by_text["8"], by_text["4"])


def test_a_level_runs_across_the_whole_chart_and_does_not_stretch_the_x_axis():
    series = [
        Series("a", ((20.0, 1.0), (50.0, 2.0)), STYLE),
        Series("full", ((6000.0, 9.0),), STYLE, is_level=True),
    ]
    chart = line_chart(series, is_log_x=True, x_values=(20, 50), **WORDS)
    assert [x for x, _ in chart.lines[1].marks] == [LEFT, chart.right]
    assert chart.lines[0].marks[1][0] > 0.9 * chart.right


def test_names_at_line_ends_never_overlap_and_keep_the_order_of_the_lines():
    series = [
        Series(name, ((1.0, 5.0), (2.0, y)), STYLE)
        for name, y in (("a", 5.0), ("b", 5.1), ("c", 5.2), ("d", 9.0))
    ]
    chart = line_chart(series, has_labels=True, **WORDS)
    places = {line.name: line.label_y for line in chart.lines}
    ordered = sorted(places, key=places.__getitem__)
    assert ordered == ["d", "c", "b", "a"]
    assert all(
        places[lower] - places[upper] >= LABEL_STEP - 0.02
        for upper, lower in itertools.pairwise(ordered)
    )


def test_a_single_point_or_a_flat_line_still_has_an_axis():
    for points in (((20.0, 3.0),), ((1.0, 0.0), (2.0, 0.0))):
        chart = line_chart([Series("a", points, STYLE)], **WORDS)
        assert len(chart.y_ticks) >= 2
        assert all(math.isfinite(value) for mark in chart.lines[0].marks for value in mark)


def test_points_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="needs finite points"):
        line_chart([Series("a", ((0.0, math.nan),), STYLE)], **WORDS)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (0.13, 0.41, [0.1, 0.2, 0.3, 0.4, 0.5]),
        (8.0, 38.7, [0, 10, 20, 30, 40]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert round_ticks(low, high) == pytest.approx(expected)


def test_learning_curves_are_averaged_over_seeds_and_leave_out_epochs_without_validation():
    curves = pd.DataFrame(
        {
            "set": "a-3",
            "seed": [0, 1, 0, 1],
            "epoch": [1, 1, 2, 2],
            "loss": 1.0,
            "val_mean_recall": [2.0, 4.0, None, None],
        }
    )
    assert figures.average_curves(curves).to_dict("records") == [
        {"set": "a-3", "epoch": 1, "val_mean_recall": 3.0}
    ]


def test_the_recall_figure_says_in_words_what_it_shows(scores):
    shown = primary(summarise(check_scores(scores)), "strict", "timm test_vit")
    chart = figures.recall_by_size(
        shown, figures.method_styles(shown, frozenset({"bi_trajectory-20", "bi_trajectory-50"}))
    )
    for row in shown.to_dict("records"):
        assert f"{row['mean_recall']:.1f} at {row['num_pairs']} pairs" in chart.summary
    assert {line.name for line in chart.lines} == set(shown["method"])


def test_long_histories_are_averaged_in_bins_and_the_number_is_told():
    iteration = range(301)
    history = pd.DataFrame(
        {
            "set": "a-3",
            "iteration": iteration,
            "loss": [float(i % 3) for i in iteration],
            "loss_img": 0.5,
            "loss_txt": 0.5,
        }
    )
    panels = figures.distillation_curves(history)
    assert panels.num_averaged == 3
    assert len(panels.charts[0].lines[0].marks) == 101


def test_a_warm_start_has_a_panel_of_its_own():
    history = pd.DataFrame(
        {
            "set": "a-3",
            "iteration": range(6),
            "loss": [2.0, 1.0, 9.0, 8.0, 7.0, 6.0],
            "loss_img": 0.5,
            "loss_txt": 0.5,
        }
    )
    assert len(figures.distillation_curves(history).charts) == 1
    panels = figures.distillation_curves(
        history.assign(is_warm_start=[1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    )
    summaries = [chart.summary for chart in panels.charts]
    assert ["total from 9 to 6" in summaries[0], "total from 2 to 1" in summaries[1]] == [
        True,
        True,
    ]


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_line_and_text_colour_has_enough_contrast_on_every_background():
    css = (TEMPLATES / "style.css.j2").read_text()
    named = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css))
    shown = pd.DataFrame({"method": ["random", "full"], "set": ["random-3", "full"]})
    lines = [style.colour for style in figures.method_styles(shown, frozenset()).values()] + [
        *figures.DISTILLED,
        *figures.SELECTED,
    ]
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in lines)
    for text in ("ink", "soft", "blue"):
        assert all(
            contrast(named[text], background) >= 4.5
            for background in ("#ffffff", named["wash"], named["tint"])
        )
