"""Hard sigmoids with second derivatives equal torch's own and are what every encoder gets."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.image_encoders import timm, torchvision
from tasks.core.networks.standard_forms import HardSigmoid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hard_sigmoid_equals_the_one_of_torch_to_the_last_bit(dtype):
    drawn = 6 * torch.randn(100_003, generator=make_generator(0, "x"), dtype=torch.float64)
    x = torch.cat([drawn, torch.tensor([-3.0, 3.0, 0.0])]).to(dtype)
    found, expected = (
        (way, x.clone().requires_grad_()) for way in (HardSigmoid(), functional.hardsigmoid)
    )
    values, gradients = [], []
    for way, leaf in (found, expected):
        values.append(way(leaf))
        gradients.append(torch.autograd.grad(values[-1].sum(), leaf)[0])
    assert torch.equal(values[0], values[1])
    if dtype is torch.float32:
        assert torch.equal(gradients[0], gradients[1])
    else:  # where torch's gradient is the 1/6 of float32
        assert set(gradients[0].tolist()) == {0.0, 1 / 6} and set(gradients[1].tolist()) == {
            0.0,
            float(torch.tensor(1 / 6)),
        }


@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        (timm, {"name": "mobilenetv3_small_050", "kwargs": {}}),
        (torchvision, {"name": "mobilenet_v3_small"}),
    ],
)
def test_encoders_are_built_with_them_and_all_else_as_before(plugin, options):
    module = plugin.build(
        plugin.Config(weights="random", mean=None, std=None, **options), seed=0
    ).module
    kinds = [type(layer) for layer in module.modules()]
    assert (
        nn.Hardsigmoid not in kinds
        and kinds.count(HardSigmoid) == 9
        and nn.Hardswish in kinds
        and not module.training
    )


def test_the_second_derivative_exists_in_reverse_and_in_forward_mode():
    x = torch.tensor([-4.0, -1.0, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda x: HardSigmoid()(x).square(), x, check_fwd_over_rev=True
    )
