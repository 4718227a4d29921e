"""Activations held in their recorded piece equal the original there, and keep its formula elsewhere."""

import pytest
import torch
from torch import nn

from tasks.core.kinks import Kinks
from tasks.core.seeding import make_generator

LAYERS = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(-0.5, 1.5), nn.LeakyReLU(0.2), nn.Hardsigmoid(), nn.Hardswish()]
POOLS = [nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2, padding=1)]


def _input():
    return 4 * torch.randn(2, 3, 6, 6, generator=make_generator(0, "x"), dtype=torch.float64)


@pytest.mark.parametrize("layer", [*LAYERS, *POOLS], ids=str)
def test_recorded_pieces_give_value_and_gradient_of_the_function(layer):
    kinks, gradients, values = Kinks(), [], []
    with kinks.recorded():
        layer(_input())
    for how in (torch.enable_grad, kinks.imposed):
        x = _input().requires_grad_()
        with how():
            values.append(layer(x * 1.0))
        gradients.append(torch.autograd.grad(values[-1].square().sum(), x)[0])
    assert torch.allclose(values[0], values[1], rtol=1e-14)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_unit_on_its_kink_has_the_derivative_that_torch_gives_it(layer, dtype):
    points = torch.tensor([-3.0, -0.5, 0.0, 1.5, 3.0, 6.0], dtype=dtype).repeat(6)  # breaks of all; vectorised and single elements
    kinks, gradients = Kinks(), []
    with kinks.recorded():
        layer(points.clone())
    for how in (torch.enable_grad, kinks.imposed):
        x = points.clone().requires_grad_()
        with how():
            gradients.append(torch.autograd.grad(layer(x * 1.0).sum(), x)[0])
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-6)


def test_a_unit_that_crosses_its_kink_stays_in_its_piece():
    kinks = Kinks()
    with kinks.recorded():
        nn.ReLU()(torch.tensor([-1.0, 2.0]))
    with kinks.imposed():
        assert nn.ReLU()(torch.tensor([3.0, -4.0])).tolist() == [0.0, -4.0]


def test_a_smooth_network_leaves_no_record():
    kinks = Kinks()
    with kinks.recorded():
        nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.SiLU())(torch.zeros(2, 3))
    assert kinks.num_bytes == 0
    with kinks.imposed():
        assert nn.GELU()(torch.zeros(1)).item() == 0.0
