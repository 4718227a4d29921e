"""Every engine against unrolled autograd in float64, on each family of networks, with dropout and a
learnt similarity.
"""

import pytest
import torch

from tasks.core.hypergradient.trajectory import trajectory_gradient
from tests.core.hypergradient.engine_problems import (
    BOUNDS,
    NETWORKS,
    make_flat,
    make_trajectory,
    relative_errors,
    solved,
    student_loss,
)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    return solved(request.param)


@pytest.mark.parametrize(("engine", "bound"), BOUNDS.items())
def test_engines_equal_unrolled_autograd_in_float64(case, engine, bound):
    _, flat, trajectory, oracle = case
    found = trajectory_gradient(student_loss(flat), engine=engine, **trajectory)
    assert found.loss == pytest.approx(oracle.loss, rel=1e-12)
    assert max(relative_errors(found, oracle).values()) <= bound
    for group, expected in oracle.log_step_sizes.items():
        assert float(found.log_step_sizes[group]) == pytest.approx(float(expected), rel=bound)


# One-sided differences of the ReLU6 network are off by 1e-2 to 2e-2, by the number of threads;
# `auto` does not take them there.
@pytest.mark.parametrize(
    ("engine", "bound"), [("central_difference", 5e-3), ("forward_difference", 4e-2)]
)
def test_differences_are_good_enough_in_float32(case, engine, bound):
    name, _, _, oracle = case
    flat = make_flat(name, torch.float32)
    found = trajectory_gradient(student_loss(flat), engine=engine, **make_trajectory(name, flat))
    assert max(relative_errors(found, oracle).values()) <= bound
