"""Views: features of crops, and their gradient through the crop back to the pixels."""

import pytest
import torch

from tasks.core.distillation.views import VIEW_SCALE, ViewFeatures
from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.frozen_features import FrozenFeatures
from tasks.core.training.augment import crop_and_flip

USED = torch.tensor([0, 2, 2, 3])


def _encoder():
    layer = torch.nn.Conv2d(3, 4, 3, stride=2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=make_generator(1)))
        layer.bias.zero_()  # else drawn anew in every run
    return torch.nn.Sequential(layer, torch.nn.GELU(), torch.nn.Flatten()).requires_grad_(False)


def _draw(number):
    return make_generator(0, "crop", number)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_gradient_of_all_views_arrives_at_the_pixels(micro_batch):
    encoder, pixels = _encoder(), torch.randn(5, 3, 9, 9, generator=make_generator(2))
    views = ViewFeatures(encoder, pixels, USED, num_views=3, draw=_draw, micro_batch=micro_batch)
    leaf = pixels.clone().requires_grad_()
    crops = [
        leaf,
        *(crop_and_flip(leaf, VIEW_SCALE, _draw(number), flip=True) for number in (1, 2)),
    ]
    expected = torch.stack([encoder(crop) for crop in crops], 1)
    rows = USED.unique()
    assert (
        torch.allclose(views.values[rows], expected[rows], atol=1e-6)
        and not views.values[[1, 4]].any()
    )
    weights = torch.randn(views.values.shape, generator=make_generator(3))
    weights[[1, 4]] = 0.0  # no loss depends on images that no batch draws
    (grad,) = torch.autograd.grad((expected * weights).sum(), leaf)
    assert (
        torch.allclose(views.pull_back(weights), grad, atol=1e-5) and float(grad.abs().max()) > 1.0
    )


def test_one_view_is_the_image_itself():
    encoder, pixels = _encoder(), torch.randn(5, 3, 9, 9, generator=make_generator(2))
    one, plain = (
        ViewFeatures(encoder, pixels, USED, num_views=1, draw=_draw),
        FrozenFeatures(encoder, pixels, USED),
    )
    assert torch.equal(one.values, plain.values)
    weights = torch.randn(plain.values.shape, generator=make_generator(3))
    assert torch.equal(one.pull_back(weights), plain.pull_back(weights))
