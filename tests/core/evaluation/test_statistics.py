"""Statistics of scores against numpy, scipy and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.core.evaluation.statistics import Statistics, describe, mean, t_quantile

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("freedom", [*range(1, 31), 59, 100, 999, 1000])
def test_the_quantile_of_student_t_is_that_of_scipy(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_mean_deviation_and_interval_are_those_of_numpy_and_scipy(n):
    sample = np.random.default_rng(n).normal(12.0, 3.0, n)
    found = describe(sample)
    expected = stats.t.interval(0.95, n - 1, loc=sample.mean(), scale=stats.sem(sample))
    assert found.n == n
    assert found.mean == mean(sample) == pytest.approx(sample.mean())
    assert found.deviation == pytest.approx(sample.std(ddof=1))
    assert found.interval == pytest.approx(expected)


def test_the_deviation_divides_by_one_less_than_the_number_of_values():
    assert describe([4.0, 6.0]).deviation == pytest.approx(math.sqrt(2))


def test_one_value_has_a_mean_and_no_known_spread():
    assert describe([3.5]) == Statistics(1, 3.5, None, None)


@pytest.mark.parametrize("value", [0.1, 12.3, 1 / 3])
def test_equal_values_have_no_spread_however_many_there_are(value):
    for n in range(2, 40):
        assert describe([value] * n) == Statistics(n, value, 0.0, (value, value))


def test_no_value_is_refused():
    with pytest.raises(ValueError, match="statistics need a value"):
        describe([])
