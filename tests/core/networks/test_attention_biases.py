"""Networks that cache the biases of their attention are functions of the parameters of each call,
whatever was called before.
"""

import copy

import timm
import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.encoders import ImageEncoder, ready
from tasks.core.networks.functional import FlatModel
from tests.core.hypergradient.small_problem import TEXT_DIM, make_model


def _flat() -> FlatModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = ready(timm.create_model("levit_128s", num_classes=0))
    biases = [
        (name, parameter)
        for name, parameter in module.named_parameters()
        if name.endswith("attention_biases")
    ]
    assert biases
    for name, parameter in biases:  # zero in a new network
        parameter.data.normal_(std=0.5, generator=make_generator(0, name))
    return FlatModel(make_model(ImageEncoder(module, 384, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))))


def test_value_and_gradient_belong_to_the_parameters_of_the_call():
    images = torch.randn(2, 3, 224, 224, generator=make_generator(0, "images"))
    texts = torch.randn(2, TEXT_DIM, generator=make_generator(0, "texts"))

    def at(flat, scale):
        theta = (scale * flat.flatten()["img"]).requires_grad_()
        value = flat.call({"img": theta, "txt": flat.flatten()["txt"]}, images, texts)[0]
        return value.detach(), torch.autograd.grad(value.square().sum(), theta)[0]

    used = _flat()
    at(used, 1.0)
    copy.deepcopy(used.model)  # a tensor with a graph could not be copied
    for found, expected in zip(at(used, 0.9), at(_flat(), 0.9), strict=True):
        assert torch.equal(found, expected)
