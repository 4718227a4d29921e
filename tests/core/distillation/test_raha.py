"""raha: distances on the hyperboloid, both subspaces, and a loss that falls."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import normalize

from tasks.core.distillation.distillers import raha
from tasks.core.foundations.seeding import make_generator
from tests.core.distillation.method_samples import RAHA, Killed, mean_loss, run_method
from tests.core.hypergradient.small_problem import make_problem


def _vectors(name, count=4):
    return torch.randn(count, 5, generator=make_generator(0, name), dtype=torch.float64)


def test_distances_are_those_of_the_hyperbolic_law_of_cosines():
    a, b = _vectors("a"), _vectors("b", 3)
    for curvature in (1.0, 2.5):
        found = raha.distances(a, b, curvature)
        root = math.sqrt(curvature)
        for i, one in enumerate(a):
            for j, other in enumerate(b):
                x, y = root * float(one.norm()), root * float(other.norm())
                cosine = float(one @ other) / float(one.norm() * other.norm())
                inner = math.cosh(x) * math.cosh(y) - math.sinh(x) * math.sinh(y) * cosine
                assert float(found[i, j]) == pytest.approx(math.acosh(inner) / root)
    # Hardly curved, it is the plane
    torch.testing.assert_close(raha.distances(a, b, 1e-3), torch.cdist(a, b), rtol=0.01, atol=0.01)


def test_the_gradient_is_that_of_differences_and_finite_where_points_meet():
    a, b = _vectors("a").requires_grad_(), _vectors("b")
    assert torch.autograd.gradcheck(lambda a: raha.distances(a, b, 1.0), (a,))
    one = normalize(_vectors("a").float(), dim=1).requires_grad_()
    i2t, t2i = raha.hyperbolic_losses(one, one.detach(), tau=0.07, curvature=1.0)
    (i2t + t2i).backward()
    assert one.grad.isfinite().all()


def test_real_pairs_themselves_cost_less_than_others_in_both_subspaces():
    img = normalize(_vectors("a", 6), dim=1)
    real = img, normalize(img + 0.3 * _vectors("noise", 6), dim=1)
    other = normalize(_vectors("x", 6), dim=1), normalize(_vectors("y", 6), dim=1)
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        config = dataclasses.replace(
            RAHA, range_weight=weights[0], residual_weight=weights[1], compression_weight=0.0
        )
        # The entropy of the transport couples a row with its neighbours a little
        same = float(raha.subspace_loss(config, real, real))
        assert 0.0 <= same < 0.2 * float(raha.subspace_loss(config, other, real))
    free, squeezed = (
        dataclasses.replace(RAHA, range_weight=0.0, compression_weight=weight)
        for weight in (0.0, 1.0)
    )
    ratio = float(raha.subspace_loss(squeezed, real, real) - raha.subspace_loss(free, real, real))
    assert 0.0 < ratio < 1.0


@pytest.mark.parametrize("trainable", ["heads", "full"])
def test_the_loss_falls(tmp_path, trainable):
    found = run_method(raha, make_problem(tmp_path, trainable), RAHA, iterations=40)
    assert mean_loss(found.history[-5:]) < 0.9 * mean_loss(found.history[:5])
    assert found.pairs.step_sizes is None


def test_a_resumed_run_has_the_bytes_of_one_without_a_break(tmp_path):
    problem, file = make_problem(tmp_path, "heads"), tmp_path / "c.safetensors"

    def kill(row, iteration):
        if iteration == 7:
            raise Killed

    expected = run_method(raha, problem, RAHA)
    with pytest.raises(Killed):
        run_method(raha, problem, RAHA, checkpoint=file, log=kill)
    got = run_method(raha, problem, RAHA, checkpoint=file)
    assert got.history == expected.history
    assert torch.equal(got.pairs.images, expected.pairs.images)


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"x\.expert_epochs: received 4 with experts of 3 epochs"):
        wrong = dataclasses.replace(RAHA, expert_epochs=4)
        raha.check(wrong, 3, (6,), trainable="full", where="x")
    assert RAHA.needs_experts and RAHA.min_experts == 1
