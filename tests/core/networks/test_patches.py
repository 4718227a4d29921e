"""A patch embedding as a matrix product equals the convolution and keeps its parameters."""

import pytest
import torch
from torch import nn

from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.standard_forms import PatchConvolution, use_patch_products


@pytest.mark.parametrize("has_bias", [True, False])
def test_patch_products_equal_the_convolution(has_bias):
    plain = nn.Sequential(nn.Conv2d(3, 5, (4, 2), stride=(4, 2), bias=has_bias)).double()
    images = torch.randn(
        2, 3, 9, 6, generator=make_generator(0, "images"), dtype=torch.float64, requires_grad=True
    )
    expected = plain(images)
    parameters = list(plain.parameters())
    use_patch_products(plain)
    assert isinstance(plain[0], PatchConvolution)
    assert all(a is b for a, b in zip(parameters, plain.parameters(), strict=True))
    assert [name for name, _ in plain.named_parameters()] == ["0.weight", "0.bias"][
        : len(parameters)
    ]
    found = plain(images)
    assert torch.allclose(found, expected, rtol=1e-12)
    assert plain(images[:0]).shape == (0, 5, 2, 3)
    leaves = [images, *parameters]
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-11)


def test_other_convolutions_stay():
    layers = [
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 2, stride=2, groups=2),
        nn.Conv2d(4, 4, 2, stride=2, padding=1),
    ]
    module = nn.Sequential(*layers)
    use_patch_products(module)
    assert list(module) == layers
