"""The assignment is the best of all permutations, and that of a library."""

import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from tasks.core.foundations.seeding import make_generator
from tasks.core.selection.assignment import assign


def _costs(size, seed):
    return torch.randn(size, size, dtype=torch.float64, generator=make_generator(seed, "costs"))


def _sum(costs, columns):
    return float(costs[torch.arange(len(costs)), torch.as_tensor(columns)].sum())


@pytest.mark.parametrize("seed", range(20))
def test_no_permutation_costs_less(seed):
    costs = _costs(5, seed)
    found = assign(costs)
    assert sorted(found.tolist()) == list(range(5))
    least = min(_sum(costs, columns) for columns in itertools.permutations(range(5)))
    assert _sum(costs, found) == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 40, 100])
@pytest.mark.parametrize("has_ties", [False, True])
def test_the_sum_is_that_of_scipy(size, has_ties):
    costs = _costs(size, size)
    if has_ties:  # as with counts, most of them zero
        costs = costs.round().clamp(max=0)
    found = assign(costs)
    assert sorted(found.tolist()) == list(range(size))
    expected = costs.numpy()[linear_sum_assignment(costs.numpy())].sum()
    assert _sum(costs, found) == pytest.approx(expected, abs=1e-9)
