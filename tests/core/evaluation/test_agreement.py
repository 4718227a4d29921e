"""Agreement of rankings against a count by hand, against scipy, and in cases that are known."""

import numpy as np
import pytest

from tasks.core.evaluation.agreement import agreement, kendall_tau, lost


def _counted(a, b):
    """tau-b by its definition: concordant and discordant pairs, and ties of one side alone."""
    concordant = discordant = only_a = only_b = 0
    for i in range(len(a)):
        for j in range(i):
            x, y = a[i] - a[j], b[i] - b[j]
            concordant += x * y > 0
            discordant += x * y < 0
            only_a += x == 0 != y
            only_b += y == 0 != x
    untied = concordant + discordant
    return (concordant - discordant) / ((untied + only_a) * (untied + only_b)) ** 0.5


@pytest.mark.parametrize("num_values", [3, 50])
def test_tau_is_that_of_its_definition_and_of_scipy_with_and_without_ties(num_values):
    from scipy.stats import kendalltau

    draw = np.random.default_rng(3)
    a = draw.integers(0, num_values, 17).astype(float)
    b = a + draw.integers(0, num_values, 17)
    assert kendall_tau(a, b) == pytest.approx(_counted(a, b), abs=1e-12)
    assert kendall_tau(a, b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)


def test_tau_is_one_of_an_order_with_itself_and_unknown_where_nothing_is_ordered():
    order = np.array([3.0, 1.0, 2.0])
    assert kendall_tau(order, 5 * order) == 1.0
    assert kendall_tau(order, -order) == -1.0
    assert np.isnan(kendall_tau(order, np.ones(3)))


def test_students_of_one_seed_are_not_compared():
    truth = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    assert agreement(truth, truth).tau == -1.0


def test_more_noise_agrees_less_and_the_interval_holds_the_value():
    draw = np.random.default_rng(7)
    truth = np.linspace(0, 1, 40) + 0.02 * draw.standard_normal((2, 40))
    near = truth[:1].mean(axis=0) + 0.1 * draw.standard_normal((2, 40))
    far = truth[:1].mean(axis=0) + 1.0 * draw.standard_normal((2, 40))
    ceiling, close, loose = (agreement(seen, truth) for seen in (truth, near, far))
    assert ceiling.tau > close.tau > loose.tau
    for one in (ceiling, close, loose):
        low, high = one.interval
        assert low < one.tau < high
    difference, (low, high) = close.minus(loose)
    assert difference == close.tau - loose.tau and 0 < low < difference < high
    assert close.minus(close) == (0.0, (0.0, 0.0))


def test_a_choice_loses_what_its_head_is_below_the_best_mean():
    truth = np.array([[10.0, 30.0, 20.0], [12.0, 34.0, 22.0]])
    seen = np.array([[1.0, 2.0, 3.0], [1.0, 9.0, 3.0], [7.0, 2.0, 3.0]])
    assert lost(seen, truth) == [11.0, 0.0, 21.0]
