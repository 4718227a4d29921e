"""Chart geometry against coordinates worked out by hand, and the contrast of every colour."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from tasks.reporting import figures
from tasks.reporting.charts import (
    BOTTOM,
    EMPTY,
    HEIGHT,
    LABEL_STEP,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Series,
    Style,
    line_chart,
    round_ticks,
)
from tasks.reporting.rendering import TEMPLATES, environment
from tasks.reporting.tables import FULL, check_scores, primary, summarise

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


NAN, INF = math.nan, math.inf
# Values of one series, and how many of them no chart can draw.
KINDS = {
    "plain": ([1.0, 3.0, 2.0], 0),
    "constant": ([4.2, 4.2, 4.2], 0),
    "zero": ([0.0, 0.0, 0.0], 0),
    "constant up to rounding": ([12.5, 12.5 + 2e-15, 12.5], 0),
    "tiny": ([5e-324, 0.0, 1e-300], 0),
    "huge": ([1e149, -1e149, 1e140], 0),
    "single point": ([2.0], 0),
    "single zero": ([0.0], 0),
    "empty": ([], 0),
    "one gap": ([1.0, NAN, 3.0], 1),
    "infinite end": ([1.0, 2.0, INF], 1),
    "one finite": ([NAN, 2.0, -INF], 2),
    "none finite": ([NAN, INF, -INF], 3),
    "beyond doubles": ([1.7e308, -1.7e308, 1.0], 2),
}


def simple_charts(values: list[float], **options) -> list[Chart]:
    points = tuple((float(x), y) for x, y in enumerate(values, 1))
    return [line_chart([Series("a", points, STYLE)], **WORDS, **options)]


def spread_charts(values: list[float]) -> list[Chart]:
    points = tuple((float(x), y) for x, y in enumerate(values, 1))
    spread = tuple(abs(y) for _, y in points)
    # A bar of infinite length goes with its point and is not counted apart.
    return [line_chart([Series("a", points, STYLE, spread)], **WORDS)]


def across_charts(values: list[float]) -> list[Chart]:
    points = tuple((x, 1.0) for x in values)
    return [line_chart([Series("a", points, STYLE)], **WORDS)]


def level_charts(values: list[float]) -> list[Chart]:
    points = tuple((float(x), y) for x, y in enumerate(values, 1))
    return [line_chart([Series("a", points, STYLE, is_level=True)], **WORDS)]


def recall_charts(values: list[float]) -> list[Chart]:
    shown = pd.DataFrame(
        {
            "method": "random",
            "set": [f"random-{size}" for size in range(1, len(values) + 1)],
            "num_pairs": range(1, len(values) + 1),
            "mean_recall": pd.Series(values, dtype="float64"),
            "mean_recall_std": NAN,
        }
    )
    return [figures.recall_by_size(shown, figures.method_styles(shown, frozenset()))]


def full_data_charts(values: list[float]) -> list[Chart]:
    sizes = range(1, len(values) + 1)
    values = pd.Series(values, dtype="float64")
    shown = pd.DataFrame(
        {"method": FULL, "set": FULL, "num_pairs": sizes, "mean_recall": values}
    ).assign(mean_recall_std=NAN)
    return [figures.recall_by_size(shown, figures.method_styles(shown, frozenset()))]


def learning_charts(values: list[float]) -> list[Chart]:
    shown = pd.DataFrame({"method": ["random"], "set": ["random-3"], "num_pairs": [3]})
    averaged = pd.DataFrame({"epoch": range(len(values)), "val_mean_recall": values}).astype(float)
    averaged.insert(0, "set", "random-3")
    panels = figures.learning_curves(averaged, shown, figures.method_styles(shown, frozenset()))
    return list(panels.charts)


def history_charts(values: list[float], make=figures.distillation_curves) -> list[Chart]:
    columns = ("loss", "loss_img", "loss_txt", "step_size_img", "step_size_txt")
    history = pd.DataFrame({"iteration": range(len(values))}).assign(
        set="a-3", **{name: pd.Series(values, dtype="float64") for name in columns}
    )
    return list(make(history).charts)


def step_size_charts(values: list[float]) -> list[Chart]:
    return history_charts(values, figures.step_size_curves)


# The number of lines that show the same values.
MAKERS = {
    simple_charts: 1,
    spread_charts: 1,
    across_charts: 1,
    level_charts: 1,
    recall_charts: 1,
    full_data_charts: 1,
    learning_charts: 1,
    history_charts: 3,
    step_size_charts: 2,
}


def draw(chart: Chart) -> ElementTree.Element:
    """The chart as the page draws it, parsed."""
    template = '{% import "chart.svg.j2" as svg with context %}{{ svg.draw(chart, "a") }}'
    return ElementTree.fromstring(environment().from_string(template).render(chart=chart))


def check_drawing(chart: Chart) -> None:
    svg = draw(chart)
    for element in svg.iter():
        for name, value in element.attrib.items():
            assert not re.search(r"\b(nan|inf)\b", value), (element.tag, name, value)
    for line in chart.lines:
        corners = [*line.marks, *((x, y) for x, *ends in line.bars for y in ends)]
        for x, y in corners:
            assert LEFT - 0.01 <= x <= chart.right + 0.01 and TOP - 0.01 <= y <= chart.bottom + 0.01
    for ticks in (chart.x_ticks, chart.y_ticks):
        assert len({tick.text for tick in ticks}) == len(ticks)
        assert all(math.isfinite(tick.at) for tick in ticks)
    assert all(LEFT - 0.01 <= tick.at <= chart.right + 0.01 for tick in chart.x_ticks)
    texts = {element.text for element in svg.iter()}
    assert (EMPTY in texts) == (not chart.lines)
    assert (f"{chart.num_left_out} not finite, left out" in texts) == (chart.num_left_out > 0)
    assert not re.search(r"\b(nan|inf)\b", chart.summary)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_chart_draws_every_kind_of_series(make, kind):
    values, num_left_out = KINDS[kind]
    charts = make(list(values))
    assert len(charts) == 1 or not values
    for chart in charts:
        check_drawing(chart)
        assert bool(chart.lines) == (len(values) > num_left_out)
        assert (f"{EMPTY}." in chart.summary) == (not chart.lines)
        assert chart.num_left_out == MAKERS[make] * num_left_out
        if chart.num_left_out:
            assert f"Left out: {chart.num_left_out} value" in chart.summary


@pytest.mark.parametrize("kind", KINDS)
def test_a_logarithmic_chart_draws_every_kind_of_series(kind):
    values, num_left_out = KINDS[kind]
    (chart,) = simple_charts(values, is_log_x=True, x_values=(0, 1, 2, 3), has_labels=True)
    check_drawing(chart)
    assert chart.num_left_out == num_left_out
    points = tuple((value, 1.0) for value in values)
    check_drawing(line_chart([Series("a", points, STYLE)], is_log_x=True, **WORDS))


def test_a_bar_of_infinite_length_is_left_out_and_its_point_stays():
    chart = line_chart([Series("a", ((0.0, 1.0), (1.0, 2.0)), STYLE, (INF, 0.5))], **WORDS)
    check_drawing(chart)
    assert (chart.num_left_out, len(chart.lines[0].marks), len(chart.lines[0].bars)) == (1, 2, 1)


@pytest.mark.parametrize("make", [learning_charts, history_charts, step_size_charts])
def test_a_curve_of_one_value_is_a_dot(make):
    for values, num_dots in (([2.0], 1), ([2.0, 3.0], 0)):
        (chart,) = make(values)
        circles = [one for one in draw(chart).iter() if one.tag.endswith("circle")]
        assert len(circles) == num_dots * len(chart.lines)


def test_a_chart_of_no_series_says_so():
    check_drawing(line_chart([], **WORDS))


def test_no_curve_and_no_history_make_no_panel():
    shown = pd.DataFrame({"method": ["random"], "set": ["random-3"], "num_pairs": [3]})
    styles = figures.method_styles(shown, frozenset())
    averaged = pd.DataFrame({"set": [], "epoch": [], "val_mean_recall": []})
    assert figures.learning_curves(averaged, shown, styles).charts == ()


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
