"""Measures against numbers worked out by hand, and against scipy's and numpy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.core.evaluation.measures import (
    MIN_SETS,
    augmentation_robust_score,
    encoder_robustness,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    loss_correlation,
    recovery,
    spearman,
    spread,
)
from tasks.core.evaluation.statistics import describe

stats = pytest.importorskip("scipy.stats")


def test_ratios_and_differences_are_those_of_their_definitions():
    assert recovery(0.3, 0.4) == pytest.approx(0.75) and recovery(0.3, 0.0) is None
    assert improvement_over_random(0.3, 0.08) == pytest.approx(0.22)
    assert hard_label_recovery(0.25, 0.4) == pytest.approx(0.15)


def test_the_label_robust_score_is_0_at_the_worst_and_1_at_the_best():
    assert label_robust_score(-1.0, 1.0) == pytest.approx(0.0)
    assert label_robust_score(1.0, -1.0) == pytest.approx(1.0)
    # a = (0.2 - 0.4) / 2 = -0.1, so (0.904837 - 0.367879) / 2.350402
    assert label_robust_score(0.2, 0.4) == pytest.approx(0.228453, abs=1e-6)


def test_the_augmentation_robust_score_takes_the_mean_of_both_gains():
    assert augmentation_robust_score(-1.0, -1.0) == pytest.approx(0.0)
    assert augmentation_robust_score(1.0, 1.0) == pytest.approx(1.0)
    # a = (0.2 + 0.1) / 2 = 0.15, so (1.161834 - 0.367879) / 2.350402
    assert augmentation_robust_score(0.2, 0.1) == pytest.approx(0.337796, abs=1e-6)
    assert augmentation_robust_score(0.1, 0.2) == augmentation_robust_score(0.2, 0.1)


def test_robustness_is_the_mean_of_unseen_encoders_over_home():
    assert encoder_robustness(0.2, [0.1, 0.06]) == pytest.approx(0.4)
    assert encoder_robustness(0.2, []) is None
    assert encoder_robustness(0.0, [0.1]) is encoder_robustness(-0.1, [0.1]) is None


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_that_of_scipy(ties):
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=(2, 11))
    if ties:
        a, b = a.round(0), b.round(0)
    assert spearman(list(a), list(b)) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman([1.0, 2.0], [3.0, 3.0]) is None


def test_spearman_of_many_sets_takes_no_time():
    """Comparing each with each would take minutes."""
    values = [float(place // 2) for place in range(40_000)]
    assert spearman(values, values[::-1]) == pytest.approx(-1.0)


def test_the_correlation_of_loss_needs_several_sets():
    losses = [float(place) for place in range(MIN_SETS)]
    recalls = [math.exp(-loss) for loss in losses]
    assert loss_correlation(losses, recalls) == pytest.approx(-1.0)
    assert loss_correlation(losses[1:], recalls[1:]) is None


def test_the_spread_over_sets_stands_beside_that_over_students():
    scores = [[10.0, 12.0], [13.0, 15.0, 17.0], [20.0]]
    found = spread([describe(students) for students in scores])
    means = [11.0, 15.0, 20.0]
    assert found.sets.n == 3 and found.sets.mean == pytest.approx(np.mean(means))
    assert found.sets.deviation == pytest.approx(np.std(means, ddof=1))
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / math.sqrt(3)
    assert found.sets.interval[1] - found.sets.mean == pytest.approx(half)
    # Squares within sets: 2 of 1 degree, 8 of 2; the third has none
    assert found.over_students == pytest.approx(math.sqrt(10 / 3))
    assert spread([describe([1.0]), describe([2.0])]).over_students is None
