"""Measures how far two rankings agree, and what is lost by choosing by one of them.

Arrays are (S, H): S students, each with its own seed, score H things. The scores of one student
rank these things.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from tasks.core.evaluation.statistics import CONFIDENCE

Scores = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau with its interval.

    Attributes:
        interval: percentiles over resampled things (`CONFIDENCE`).
        resampled: (RESAMPLES,) tau of each resample. Agreements of the same number of things share
            their resamples, so that the difference of two is taken resample by resample.
    """

    tau: float
    interval: tuple[float, float]
    resampled: Scores

    def minus(self, other: Agreement) -> tuple[float, tuple[float, float]]:
        """Return the difference to another agreement and its interval."""
        return self.tau - other.tau, _interval(self.resampled - other.resampled)


def agreement(seen: Scores, truth: Scores) -> Agreement:
    """Return the mean tau of `seen` (S, H) against `truth` (S, H) of the same things.

    Only students of different seeds are compared, because equal seeds begin with equal weights. So
    `truth` against itself is not perfect, and its value is the ceiling that `seen` can reach.
    """
    pairs = list(permutations(range(len(truth)), 2))
    seen_signs, truth_signs = _signs(seen), _signs(truth)
    # A bootstrap over things. The fixed seed gives every agreement the same resamples.
    draw = np.random.default_rng(0)
    num = seen.shape[1]
    resamples = draw.integers(0, num, (RESAMPLES, num))
    found = np.array([_mean_tau(seen_signs, truth_signs, pairs, rows) for rows in resamples])
    tau = _mean_tau(seen_signs, truth_signs, pairs, np.arange(num))
    return Agreement(tau, _interval(found), found)


def kendall_tau(a: Scores, b: Scores) -> float:
    """Return Kendall's tau-b of two (H,) arrays, which counts ties; NaN where one is constant."""
    return _tau(_signs(a[None])[0], _signs(b[None])[0])


def lost(seen: Scores, truth: Scores) -> list[float]:
    """Return, for each student of `seen` (S, H), what is lost by trusting its ranking.

    The student chooses the thing with its highest score. The loss is how far the mean of `truth` at
    this thing is below the highest mean.
    """
    means = truth.mean(axis=0)
    return [float(means.max() - means[row.argmax()]) for row in seen]


def _signs(values: Scores) -> Scores:
    """Return which of each two things has the higher score, (S, H, H) of -1, 0 and 1."""
    return np.sign(values[:, :, None] - values[:, None, :])


def _mean_tau(
    seen: Scores, truth: Scores, pairs: list[tuple[int, int]], rows: NDArray[np.int64]
) -> float:
    # Signs of a resample are rows and columns of the signs of all, so they are computed once
    place = np.ix_(rows, rows)
    return float(np.mean([_tau(seen[a][place], truth[b][place]) for a, b in pairs]))


def _tau(a: Scores, b: Scores) -> float:
    """tau-b = sum a b / sqrt(sum a^2 sum b^2) over all pairs of things; ties are zeros."""
    scale = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / scale if scale else float("nan")


def _interval(values: Scores) -> tuple[float, float]:
    rest = 50 * (1 - CONFIDENCE)
    # A resample may hold one thing only, and its tau is NaN
    low, high = np.nanpercentile(values, [rest, 100 - rest])
    return float(low), float(high)
