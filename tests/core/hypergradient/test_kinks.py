"""Functions held in their recorded pieces equal the original there, keep its formula elsewhere, and
make differences right.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tasks.core.distillation.segments import Segment
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.kinks import Kinks
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import trajectory_gradient
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.functional import FlatModel
from tasks.core.training.student_losses import soft_contrastive
from tests.core.hypergradient.engine_problems import TEXT_DIM, relative_errors, student_loss

WIDTH = 32  # in few dimensions the loss is so curved that float32 hides what is compared


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, name, function):
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x):
        return self.function(x)

    def extra_repr(self):
        return self.name


def _written(change):
    """A layer that changes its input in place and returns it."""

    def function(x):
        x = x * 1.0
        change(x)
        return x

    return function


LAYERS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.Hardtanh(-0.5, 1.5),
    nn.LeakyReLU(0.2),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.PReLU(),
    nn.PReLU(3, init=-0.3),
    nn.Threshold(-0.5, 2.0),
    nn.Threshold(0.0, 0.0, inplace=True),
    Call("clamp", lambda x: x.clamp(-0.5, 1.5)),
    Call("clamp_min", lambda x: torch.clamp(input=x, min=-0.5)),
    Call("clamp_max", lambda x: x.clamp_max(1.5)),
    Call("clip", lambda x: torch.clip(x, max=1.5)),
    Call("abs", torch.abs),
    Call("relu_", _written(lambda x: x.relu_())),
    Call("torch.relu_", _written(torch.relu_)),
    Call("leaky_relu_", _written(lambda x: functional.leaky_relu_(x, 0.2))),
    Call("abs_", _written(lambda x: x.abs_())),
    Call("hardtanh_", _written(lambda x: functional.hardtanh_(x, -0.5, 1.5))),
    Call("clamp_", _written(lambda x: x.clamp_(-0.5, max=1.5))),
    Call("threshold_", _written(lambda x: functional.threshold_(x, -0.5, 2.0))),
]
POOLS = [
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, stride=2, padding=1),
    nn.AdaptiveMaxPool2d(4),
    nn.AdaptiveMaxPool2d((1, 4)),
    Call("amax", lambda x: x.amax((2, 3))),
    Call("amax_keepdim", lambda x: torch.amax(x, dim=1, keepdim=True)),
    Call("amax_of_zeros", lambda x: x.relu().amax(1)),
]


def _input():
    return 4 * torch.randn(2, 3, 6, 6, generator=make_generator(0, "x"), dtype=torch.float64)


@pytest.mark.parametrize("layer", [*LAYERS, *POOLS], ids=str)
def test_recorded_pieces_give_value_and_gradient_of_the_function(layer):
    kinks, gradients, values = Kinks(), [], []
    layer = layer.double()
    with kinks.recorded():
        layer(_input())
    assert kinks.num_bytes > 0
    for how in (torch.enable_grad, kinks.imposed):
        leaves = [_input().requires_grad_(), *layer.parameters()]
        with how():
            values.append(layer(leaves[0] * 1.0))
        gradients.append(torch.autograd.grad(values[-1].square().sum(), leaves))
    assert torch.allclose(values[0], values[1], rtol=1e-14)
    for found, expected in zip(*gradients, strict=True):
        assert torch.allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_unit_on_its_kink_has_the_derivative_that_torch_gives_it(layer, dtype):
    # Breaks of all functions, in every channel; vectorised and single elements.
    points = torch.tensor([-3.0, -0.5, 0.0, 1.5, 3.0, 6.0], dtype=dtype).repeat(3, 6)[None]
    kinks, gradients, layer = Kinks(), [], layer.to(dtype)
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
        torch.arange(3).sub(1).clamp(0, 1).abs()  # indices
        # Which divides by a number of at least 1
        soft_contrastive("wbce", torch.eye(3), torch.eye(3), torch.eye(3))
    assert kinks.num_bytes == 0
    with kinks.imposed():
        assert nn.GELU()(torch.zeros(1)).item() == 0.0


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-3), (torch.float64, 1e-5)])
@pytest.mark.parametrize(
    "layer", [layer for layer in (*LAYERS, *POOLS) if type(layer) is not nn.Hardsigmoid], ids=str
)
def test_differences_of_a_network_with_the_function_equal_its_second_derivative(
    layer, dtype, bound
):
    flat = _network(layer, dtype)
    trajectory = _trajectory(flat)
    exact = trajectory_gradient(student_loss(flat), engine="unroll", **trajectory)
    for engine in ("central_difference", "forward_difference"):
        found = trajectory_gradient(student_loss(flat), engine=engine, **trajectory)
        assert max(relative_errors(found, exact).values()) <= (
            bound if engine == "central_difference" else 4 * bound
        )


def _network(layer, dtype):
    """A convolution of many units, the function, and a second layer that sees how they stand to one
    another.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(3, 3, 3)
        width = layer.float()(first(torch.zeros(1, 3, 22, 22))).flatten(1).shape[1]
        encoder = nn.Sequential(
            first, layer, nn.Flatten(), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, WIDTH)
        )
    model = build_dual_encoder(
        encoder,
        out_dim=WIDTH,
        text_dim=TEXT_DIM,
        trainable="full",
        embed_dim=None,
        dropout=0.1,
        seed=0,
    )
    return FlatModel(model.to(dtype))


def _trajectory(flat):
    def draw(name, *shape):
        return torch.randn(*shape, generator=make_generator(0, name), dtype=torch.float64).to(
            flat.dtype
        )

    theta = flat.flatten()
    goal = {
        group: value + 0.1 * value.norm() * draw("goal" + group, *value.shape) / len(value) ** 0.5
        for group, value in theta.items()
    }
    return {
        "theta0": theta,
        "inputs": {"images": 3 * draw("images", 6, 3, 22, 22),
                   "text_embeds": draw("texts", 6, TEXT_DIM),
                   "left": 0.3 * draw("left", 6, 2), "right": 0.3 * draw("right", 6, 2)},
        "batches": draw_batches(6, 5, 2, make_generator(1)),
        "log_step_sizes": {group: torch.tensor(0.005, dtype=flat.dtype).log() for group in theta},
        "terminal": Segment.between(theta, goal).loss,
    }  # fmt: skip
