"""mdm: the distance of distributions, and the network between two experts."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import normalize

from tasks.core.distillation.distillers import mdm
from tasks.core.foundations.seeding import make_generator
from tests.core.distillation.method_samples import MDM, Killed, mean_loss, run_method
from tests.core.hypergradient.small_problem import make_problem


def _directions(name, count):
    return torch.randn(count, 5, generator=make_generator(0, name), dtype=torch.float64)


def test_the_distance_is_that_of_sums_by_hand():
    a, b = _directions("a", 4), _directions("b", 6)

    def mean(one, other):
        total = 0.0
        for x in normalize(one, dim=1):
            for y in normalize(other, dim=1):
                angle = math.acos(min(1.0, float(x @ y)))
                total += math.exp(-(angle**2) / (2 * 0.5**2))
        return total / (len(one) * len(other))

    expected = math.sqrt(mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert float(mdm.distance(a, b, 0.5)) == pytest.approx(expected, rel=1e-4)
    assert float(mdm.distance(a, 3.0 * a, 0.5)) == pytest.approx(0.0, abs=1e-5)


def test_the_gradient_of_the_distance_is_that_of_differences():
    a, b = _directions("a", 4).requires_grad_(), _directions("b", 6)
    assert torch.autograd.gradcheck(lambda a: mdm.distance(a, b, 0.5), (a,), atol=1e-4)


def test_the_network_lies_between_start_and_experts_as_far_as_they_agree(tmp_path):
    flat = make_problem(tmp_path, "heads").flat
    theta0, move = flat.flatten(), {}
    for group, value in theta0.items():
        move[group] = torch.randn(value.shape, generator=make_generator(0, group))
    same = mdm.between(flat, theta0, (move, move), 0.5)
    against = {group: -value for group, value in move.items()}
    none = mdm.between(flat, theta0, (move, against), 0.5)
    for group in theta0:  # c = 1 gives t = 1, c < 0 gives t = 0
        torch.testing.assert_close(same[group], theta0[group] + 0.5 * move[group])
        assert torch.equal(none[group], theta0[group])
    first = flat.layers("txt")[0]
    part = {"img": move["img"], "txt": move["txt"].clone()}
    part["txt"][first:] *= -1.0
    mixed = mdm.between(flat, theta0, (move, part), 0.5)["txt"]
    assert torch.equal(mixed[first:], theta0["txt"][first:])
    assert torch.equal(mixed[:first], same["txt"][:first])


@pytest.mark.parametrize("trainable", ["heads", "full"])
def test_the_loss_falls_and_a_resumed_run_has_the_same_bytes(tmp_path, trainable):
    problem = make_problem(tmp_path, trainable)

    def kill(row, iteration):
        if iteration == 22:
            raise Killed

    expected, file = run_method(mdm, problem, MDM, iterations=40), tmp_path / "c.safetensors"
    assert mean_loss(expected.history[-5:]) < 0.9 * mean_loss(expected.history[:5])
    assert expected.pairs.step_sizes is None
    with pytest.raises(Killed):
        run_method(mdm, problem, MDM, iterations=40, checkpoint=file, log=kill)
    got = run_method(mdm, problem, MDM, iterations=40, checkpoint=file)
    assert got.history == expected.history
    assert torch.equal(got.pairs.images, expected.pairs.images)
    assert torch.equal(got.pairs.text_embeds, expected.pairs.text_embeds)


def test_options_that_cannot_work_are_refused():
    def check(**changes):
        mdm.check(dataclasses.replace(MDM, **changes), 3, (6,), trainable="full", where="x")

    check(expert_epochs=3)
    with pytest.raises(ValueError, match=r"x\.expert_epochs: received 4 with experts of 3 epochs"):
        check(expert_epochs=4)
    with pytest.raises(ValueError, match=r"x\.num_views: received 2 with trainable 'full'"):
        check(num_views=2)
    with pytest.raises(ValueError, match=r"x\.micro_batch: received 2 with trainable 'full'"):
        check(micro_batch=2)
    frozen = dataclasses.replace(MDM, micro_batch=2)
    mdm.check(frozen, 3, (6,), trainable="heads", where="x")
