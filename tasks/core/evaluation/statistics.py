"""Computes mean, standard deviation and confidence interval of the scores of several students.

Report, preset tables and MLflow take their numbers from here, so that they agree. The file lies in
core so that the cache keys of all of them cover it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Statistics:
    """A sample in numbers. A sample of one value has no known spread: it is None, never 0.

    Attributes:
        n: number of values.
        deviation: standard deviation with divisor n - 1.
        interval: ends of the confidence interval of the mean (`CONFIDENCE`, Student t).
    """

    n: int
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def describe(values: Iterable[float]) -> Statistics:
    """Return the statistics of `values`.

    Raises:
        ValueError: there is no value.
    """
    sample = [float(value) for value in values]
    n = len(sample)
    if not n:
        raise ValueError(
            "statistics need a value; received none; allowed is at least one; check which students "
            "were scored"
        )
    # The rounded quotient may lie outside of the sample. Clamped, equal values have that very value
    # as their mean, and deviation 0.
    mean = min(max(sum(sample) / n, min(sample)), max(sample))
    if n == 1:
        return Statistics(n, mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in sample) / (n - 1))
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return Statistics(n, mean, deviation, (mean - half, mean + half))


def mean(values: Iterable[float]) -> float:
    """Return the mean of `describe`, for columns that show no spread."""
    return describe(values).mean


@functools.cache
def t_quantile(freedom: int) -> float:
    """Return t such that Student's t-distribution has `CONFIDENCE` of its mass in -t .. t.

    Args:
        freedom: degrees of freedom, at least 1.
    """
    # Bisection over the angle, which is bounded where t is not; 100 halvings exhaust float64
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if _enclosed(middle, freedom) < CONFIDENCE:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(high)


def _enclosed(angle: float, freedom: int) -> float:
    """Return the probability that |t| < sqrt(freedom) tan(angle).

    For whole degrees of freedom it is a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    # Terms are cos, 2/3 cos^3, (2 4)/(3 5) cos^5, ... for odd degrees of freedom, and 1, 1/2 cos^2,
    # (1 3)/(2 4) cos^4, ... for even ones: one recurrence with two beginnings
    is_odd = freedom % 2
    term, total = (cosine, 0.0) if is_odd else (1.0, 0.0)
    for power in range(is_odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
