"""Geometry of line charts as plain numbers, which `templates/chart.svg.j2` draws as inline SVG.

Coordinates are SVG user units, origin top left. Text is 13 units high, so a chart of `WIDTH` reads
on a 390 px phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 14.0, 26.0, 38.0
LETTER_WIDTH, LABEL_STEP = 7.8, 15.0
# A span below this share of the values is their rounding. Above it, ticks of six digits differ.
FLAT = 1e-4
# Smaller spans count as none, larger values as not finite: their quotients leave the doubles.
SMALLEST, LARGEST = 1e-150, 1e150
EMPTY = "No finite value to draw"


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
    """A drawn series: marks and bars in SVG units; `bars` holds (x, top, bottom) and `label_y` the
    baseline of its name.
    """

    name: str
    style: Style
    marks: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...]
    label_y: float
    has_marks: bool

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
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    right: float
    has_labels: bool
    num_left_out: int = 0
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
    kept = [_finite(one, is_log_x) for one in series]
    num_left_out += sum(count for _, count in kept)
    drawable = [one for one, _ in kept if one.points]
    longest = max((len(one.name) for one in drawable), default=0)
    right = WIDTH - (min(RIGHT + LETTER_WIDTH * longest, WIDTH / 2) if has_labels else RIGHT)
    summary = " ".join([summary, *_exceptions(num_left_out, is_empty=not drawable)])
    if not drawable:
        return Chart(title, summary, x_label, y_label, (), (), (), right, has_labels, num_left_out)
    curves = [one for one in drawable if not one.is_level] or drawable
    xs = [x for one in curves for x, _ in one.points]
    ends = [
        y + sign * gap
        for one in drawable
        for (_, y), gap in zip(one.points, _gaps(one), strict=True)
        for sign in (-1, 1)
    ]
    y_values = round_ticks(min(ends), max(ends))
    y_low, y_high = y_values[0], y_values[-1]
    x_low, x_high = _x_range(min(xs), max(xs), is_log_x)

    def scale_x(value: float) -> float:
        value = math.log(value) if is_log_x else value
        return (value - x_low) / (x_high - x_low)

    def place_x(value: float) -> float:
        return round(LEFT + (right - LEFT) * scale_x(value), 2)

    def place_y(value: float) -> float:
        return round(
            HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - y_low) / (y_high - y_low), 2
        )

    x_ticks = list(x_values) or _x_ticks(min(xs), max(xs))
    # A size whose every value is left out has a tick beyond the axis.
    x_ticks = [
        value
        for value in x_ticks
        if _is_drawable(value)
        and (value > 0 or not is_log_x)
        and -1e-9 <= scale_x(value) <= 1 + 1e-9
    ]
    drawn = [_draw(one, place_x, place_y, right) for one in drawable]
    return Chart(
        title,
        summary,
        x_label,
        y_label,
        tuple(Tick(place_x(value), f"{value:g}") for value in x_ticks),
        tuple(Tick(place_y(value), f"{value:g}") for value in y_values),
        tuple(_spread_labels(drawn) if has_labels else drawn),
        right,
        has_labels,
        num_left_out,
    )


def round_ticks(low: float, high: float, *, count: int = 5, is_inside: bool = False) -> list[float]:
    """Return about `count` round numbers (steps of 1, 2 or 5 times a power of ten) that enclose
    low..high, or lie inside it.

    A range that is flat (`FLAT`, `SMALLEST`) gets the ticks of one as wide as its values are large.
    """
    span = _span(low, high) or max(abs(low), abs(high))
    span = span if span >= SMALLEST else 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9)
    )
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


def _is_drawable(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= LARGEST


def _finite(series: Series, is_log_x: bool) -> tuple[Series, int]:
    """Return the series without what cannot be drawn, and how many values that were.

    A bar without a drawable end goes alone; its point stays.
    """
    spread = series.spread or (math.nan,) * len(series.points)
    points, gaps, num_left_out = [], [], 0
    for (x, y), gap in zip(series.points, spread, strict=True):
        if not (_is_drawable(x) and _is_drawable(y) and (x > 0 or not is_log_x)):
            num_left_out += 1
            continue
        if not math.isnan(gap) and not _is_drawable(abs(y) + abs(gap)):
            num_left_out += 1
            gap = math.nan
        points.append((x, y))
        gaps.append(gap)
    kept = replace(series, points=tuple(points), spread=tuple(gaps) if series.spread else ())
    return kept, num_left_out


def _exceptions(num_left_out: int, *, is_empty: bool) -> list[str]:
    """Return the sentences that `summary` ends with where not every value is drawn."""
    values = "value is" if num_left_out == 1 else "values are"
    left_out = [f"Left out: {num_left_out} {values} not finite."] if num_left_out else []
    return [*left_out, *([f"{EMPTY}."] if is_empty else [])]


def _gaps(series: Series) -> list[float]:
    return [0.0 if math.isnan(gap) else gap for gap in series.spread] or [0.0] * len(series.points)


def _x_ticks(low: float, high: float) -> list[float]:
    """Return round numbers inside low..high, or its one value."""
    return round_ticks(low, high, is_inside=True) if _span(low, high) else [low]


def _x_range(low: float, high: float, is_log: bool) -> tuple[float, float]:
    if is_log:
        low, high = math.log(low), math.log(high)
    # Of a single large value, half a unit would be lost in rounding.
    room = (high - low) * 0.04 or 0.5 * max(1.0, abs(low))
    return (low - room, high + room) if is_log or low == high else (low, high)


def _draw(
    series: Series,
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
    right: float,
) -> Line:
    if series.is_level:
        level = place_y(series.points[-1][1])
        return Line(
            series.name, series.style, ((LEFT, level), (right, level)), (), level, has_marks=False
        )
    marks = tuple((place_x(x), place_y(y)) for x, y in series.points)
    bars = tuple(
        (place_x(x), place_y(y + gap), place_y(y - gap))
        for (x, y), gap in zip(series.points, _gaps(series), strict=True)
        if gap > 0
    )
    return Line(
        series.name,
        series.style,
        marks,
        bars,
        marks[-1][1],
        has_marks=series.style.marker != "none",
    )


def _spread_labels(lines: Sequence[Line]) -> list[Line]:
    """Return `lines` with names at least `LABEL_STEP` apart, top to bottom in the order of their
    line ends.
    """
    ordered = sorted(range(len(lines)), key=lambda index: (lines[index].label_y, index))
    places = [lines[index].label_y for index in ordered]
    for _ in range(200):
        is_apart = True
        for upper, lower in zip(range(len(places) - 1), range(1, len(places)), strict=True):
            overlap = LABEL_STEP - (places[lower] - places[upper])
            if overlap > 1e-6:
                places[upper] -= overlap / 2
                places[lower] += overlap / 2
                is_apart = False
        places = [min(max(place, TOP), HEIGHT - 4) for place in places]
        if is_apart:
            break
    moved = dict(zip(ordered, places, strict=True))
    return [
        Line(one.name, one.style, one.marks, one.bars, round(moved[index] + 4, 2), one.has_marks)
        for index, one in enumerate(lines)
    ]
