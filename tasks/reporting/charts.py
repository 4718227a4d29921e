"""Geometry of line charts as plain numbers, which `templates/chart.svg.j2` draws as inline SVG.

Coordinates are SVG user units, origin top left. Text is 13 units high, so a chart of `WIDTH` reads
on a 390 px phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 14.0, 26.0, 38.0
LETTER_WIDTH, LABEL_STEP = 7.8, 15.0
# A span below this share of the values is their rounding; above it, ticks of six digits differ.
FLAT = 1e-4
# Smaller spans count as none, larger values as not finite: their quotients leave the doubles.
SMALLEST, LARGEST = 1e-150, 1e150
EMPTY = "No finite value to draw"
ROUNDS = 200  # of pushing apart names that overlap; far more than any chart needs


@dataclass(frozen=True)
class Style:
    """How a series is drawn; never by colour alone: `marker` and `dash` differ as well.

    Attributes:
        colour: `#rrggbb`, at least 3:1 against white (4.5:1 where it colours text).
        marker: circle, square, diamond, triangle or none.
        dash: SVG dash pattern, "" for a solid line.
        width: of the line, in SVG units.
    """

    colour: str
    marker: str = "circle"
    dash: str = ""
    width: float = 1.6


@dataclass(frozen=True)
class Series:
    """One line in data units.

    Attributes:
        points: (x, y), ascending in x.
        spread: half length of each point's error bar in y units, or () for none. NaN is an unknown
            length and draws none.
        is_level: draw one horizontal line across the chart at the last y (full data as a
            reference).
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: Style
    spread: tuple[float, ...] = ()
    is_level: bool = False


@dataclass(frozen=True)
class Tick:
    """A tick at `at` (SVG units) with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A drawn series: marks and bars in SVG units.

    Attributes:
        bars: (x, top, bottom).
        label_y: the baseline of its name.
    """

    name: str
    style: Style
    marks: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...]
    label_y: float

    @property
    def path(self) -> str:
        """The `points` attribute of an SVG polyline."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.marks)


@dataclass(frozen=True)
class Chart:
    """A line chart ready to draw. `summary` says in words what the picture shows, from the same
    numbers.

    Attributes:
        num_left_out: values that are not finite.
    """

    title: str
    summary: str
    x_label: str
    y_label: str
    right: float
    has_labels: bool
    num_left_out: int
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    lines: tuple[Line, ...] = ()
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM

    @property
    def message(self) -> str:
        """What stands in place of the lines, "" where there are lines."""
        return "" if self.lines else EMPTY

    @property
    def note(self) -> str:
        """How many values the chart leaves out, "" for none."""
        return f"{self.num_left_out} not finite, left out" if self.num_left_out else ""


@dataclass(frozen=True)
class _Axis:
    """From the data units low..high to the SVG units start..end."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        value = math.log(value) if self.is_log else value
        share = (value - self.low) / (self.high - self.low)
        return round(float(self.start + (self.end - self.start) * share), 2)

    def ticks(self, values: Iterable[float]) -> tuple[Tick, ...]:
        return tuple(Tick(self.place(value), f"{value:g}") for value in values)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    summary: str,
    x_label: str,
    y_label: str,
    x_values: Iterable[float] = (),
    is_log_x: bool = False,
    has_labels: bool = False,
    num_left_out: int = 0,
) -> Chart:
    """Return the chart of `series`. It leaves out values that are not finite and counts them.

    Where no finite value remains the chart has no line, no tick, and a `message`.

    Args:
        x_values: ticks on x; none means round numbers.
        is_log_x: logarithmic x; x <= 0 counts as not finite.
        has_labels: write each name at the right end of its line instead of leaving names to a
            legend.
        num_left_out: values that the caller has left out already.
    """
    shown, kept = [], []
    for one in series:
        points, left_out = _finite(one, is_log_x)
        num_left_out += left_out
        if len(points):
            shown.append(one)
            kept.append(points)
    margin = RIGHT
    if has_labels:
        longest = max((len(one.name) for one in shown), default=0)
        margin = min(RIGHT + LETTER_WIDTH * longest, WIDTH / 2)
    right = WIDTH - margin
    if num_left_out:
        values = "value is" if num_left_out == 1 else "values are"
        summary += f" Left out: {num_left_out} {values} not finite."
    if not shown:
        summary += f" {EMPTY}."
    chart = Chart(title, summary, x_label, y_label, right, has_labels, num_left_out)
    if not shown:
        return chart
    x, y, gap = np.concatenate(kept).T
    # A level has an x of its own, that of full data, which the axis need not reach
    is_curve = np.repeat([not one.is_level for one in shown], list(map(len, kept)))
    xs = x[is_curve] if is_curve.any() else x
    y_values = round_ticks((y - gap).min(), (y + gap).max())
    x_axis = _Axis(*_x_range(xs.min(), xs.max(), is_log_x), LEFT, right, is_log_x)
    y_axis = _Axis(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    ticks = []
    for value in list(x_values) or _x_ticks(xs):
        # A size at which every value is left out has a tick beyond the axis.
        if _is_drawable(value, is_log_x) and LEFT <= x_axis.place(value) <= right:
            ticks.append(value)
    lines = [_draw(one, points, x_axis, y_axis) for one, points in zip(shown, kept, strict=True)]
    return replace(
        chart,
        x_ticks=x_axis.ticks(ticks),
        y_ticks=y_axis.ticks(y_values),
        lines=tuple(_spread_labels(lines) if has_labels else lines),
    )


def round_ticks(low: float, high: float, *, is_inside: bool = False) -> list[float]:
    """Return about five round numbers (steps of 1, 2 or 5 times a power of ten) that enclose
    low..high, or lie inside it.

    A range that is flat (`FLAT`, `SMALLEST`) gets the ticks of one as wide as its values are large.
    """
    span = _span(low, high) or max(abs(low), abs(high))
    if span < SMALLEST:
        span = 1.0
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    factors = np.array([1.0, 2.0, 5.0, 10.0]) * power
    # The small shares forgive the rounding of a quotient that ought to be whole
    step = float(factors[factors >= raw * (1 - 1e-9)][0])
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if is_inside:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if first == last:
        last += 1
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def _span(low: float, high: float) -> float:
    """Return high - low, 0 where that is the rounding of equal values."""
    span = high - low
    return span if span >= max(FLAT * max(abs(low), abs(high)), SMALLEST) else 0.0


def _is_drawable(values: Any, is_log: bool = False) -> Any:
    """Whether each value is finite, not too large, and has a logarithm where it needs one."""
    # log(0) and less are no places
    lowest = 0.0 if is_log else -math.inf
    return np.isfinite(values) & (np.abs(values) <= LARGEST) & (np.asarray(values) > lowest)


def _finite(series: Series, is_log_x: bool) -> tuple[np.ndarray, int]:
    """Return the points that can be drawn as rows (x, y, gap), and how many values cannot.

    A bar without a drawable end goes alone; its point stays. A gap of 0 draws no bar.
    """
    places = np.array(series.points, dtype=float).reshape(-1, 2)
    spread = np.array(series.spread or [math.nan] * len(places))
    is_point = _is_drawable(places[:, 0], is_log_x) & _is_drawable(places[:, 1])
    places, spread = places[is_point], spread[is_point]
    is_bar = _is_drawable(np.abs(places[:, 1]) + np.abs(spread))
    num_left_out = np.sum(~is_point) + np.sum(~is_bar & ~np.isnan(spread))
    return np.column_stack([places, np.where(is_bar, spread, 0.0)]), int(num_left_out)


def _x_ticks(xs: np.ndarray) -> list[float]:
    """Return round numbers inside the range of `xs`, or its one value."""
    low, high = float(xs.min()), float(xs.max())
    if not _span(low, high):
        return [low]
    ticks = round_ticks(low, high, is_inside=True)
    # Nothing happens between two epochs or iterations
    is_counted = bool(np.all(xs % 1 == 0))
    return [tick for tick in ticks if tick.is_integer() or not is_counted]


def _x_range(low: float, high: float, is_log: bool) -> tuple[float, float]:
    if is_log:
        low, high = math.log(low), math.log(high)
    # Marks at the ends of a log axis, and a single one, stand clear of the frame. Half a unit alone
    # would be lost in rounding beside a single large value.
    room = (high - low) * 0.04 or 0.5 * max(1.0, abs(low))
    return (low - room, high + room) if is_log or low == high else (low, high)


def _draw(series: Series, points: np.ndarray, x_axis: _Axis, y_axis: _Axis) -> Line:
    marks, bars = [], []
    for x, y, gap in points:
        marks.append((x_axis.place(x), y_axis.place(y)))
        if gap > 0 and not series.is_level:
            bars.append((x_axis.place(x), y_axis.place(y + gap), y_axis.place(y - gap)))
    level, style = marks[-1][1], series.style
    if series.is_level:
        marks = [(LEFT, level), (x_axis.end, level)]
    elif len(marks) == 1 and style.marker == "none":
        style = replace(style, marker="circle")  # a line of one point is not seen
    return Line(series.name, style, tuple(marks), tuple(bars), level)


def _spread_labels(lines: Sequence[Line]) -> list[Line]:
    """Return `lines` with names at least `LABEL_STEP` apart, top to bottom in the order of their
    line ends.
    """
    ordered = sorted(range(len(lines)), key=lambda index: lines[index].label_y)
    places = [lines[index].label_y for index in ordered]
    for _ in range(ROUNDS):
        for lower in range(1, len(places)):
            overlap = max(LABEL_STEP - (places[lower] - places[lower - 1]), 0.0)
            places[lower - 1] -= overlap / 2
            places[lower] += overlap / 2
        places = [min(max(place, TOP), HEIGHT - 4) for place in places]
    moved = list(lines)
    for index, place in zip(ordered, places, strict=True):
        moved[index] = replace(lines[index], label_y=round(place + 4, 2))
    return moved
