"""Tables of texts, and numbers as texts. Imports no pandas, since leaderboards do not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def spread(mean: float, deviation: float | None, digits: int = 1) -> str:
    """Return `mean +- deviation` as text; one value has no deviation."""
    text = f"{mean:.{digits}f}"
    return text if deviation is None else f"{text} +- {deviation:.{digits}f}"


def between(interval: tuple[float, float], digits: int = 2) -> str:
    """Return the ends of an interval as text."""
    low, high = interval
    return f"{low:.{digits}f} to {high:.{digits}f}"
