"""The course of the step size, and what is decayed."""

import pytest
import torch
from torch import nn

from tasks.core.training.adamw import adamw, schedule


def test_the_step_size_rises_to_one_and_falls_to_almost_nothing():
    found = [schedule(step, 20, 0.2) for step in range(20)]
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[4:] == sorted(found[4:], reverse=True) and 0.0 < found[-1] < 0.01
    assert found[12] == pytest.approx(0.5)  # half of the 16 steps after the rise
    assert schedule(0, 3, 0.0) == 1.0


def test_matrices_alone_are_decayed():
    layer = nn.Linear(3, 2)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    optimiser = adamw(layer, 0.1, 0.5)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(layer.weight.detach(), 0.95 * before["weight"])
    assert torch.equal(layer.bias.detach(), before["bias"])
