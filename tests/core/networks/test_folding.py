"""A folded network is the same function of its pixels; what cannot be folded stays as it was."""

import dataclasses

import pytest
import torch
from torch import nn

from tasks.core.distillation.objective import Objective
from tasks.core.distillation.run import run
from tasks.core.networks.folding import fold_batch_norm
from tasks.core.networks.frozen_features import FrozenFeatures, prepare_frozen
from tasks.core.networks.image_encoders import timm as timm_encoders
from tests.core.distillation.test_run import CONFIG
from tests.core.hypergradient.small_problem import make_problem


def _frozen(module, dtype=torch.float64):
    """The module in eval mode with statistics and affine parameters that are not the identity."""
    generator = torch.Generator().manual_seed(5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, *((part.weight, part.bias) if part.affine else ())):
                tensor.data = torch.randn(tensor.shape, generator=generator)
            part.running_var.data = torch.rand(part.running_var.shape, generator=generator) + 0.3
    return module.to(dtype).eval().requires_grad_(False)


def _images(batch=3, size=11, dtype=torch.float64):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


def _seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return build()


def _num_norms(module):
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def _plain():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2, bias=True),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 10, 3, groups=5, padding=1, bias=False),
        nn.BatchNorm2d(10, affine=False),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def _mobilenet():
    config = timm_encoders.Config(
        name="mobilenetv2_100", weights="random", kwargs={"pad_type": "same"}, mean=None, std=None
    )
    return timm_encoders.build(config, seed=0).module


@pytest.mark.parametrize(("build", "num_folded", "size"), [(_plain, 2, 11), (_mobilenet, 52, 40)])
def test_output_and_gradient_to_the_pixels_stay_the_same(build, num_folded, size):
    module, images = _frozen(_seeded(build)), _images(size=size)

    def both():
        leaf = images.clone().requires_grad_()
        output = module(leaf)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        return output.detach(), torch.autograd.grad((output * weights).sum(), leaf)[0]

    expected, expected_grad = both()
    assert float(expected.norm()) > 0 and float(expected_grad.norm()) > 0
    assert fold_batch_norm(module, images[:2]) == num_folded
    assert _num_norms(module) == 0 and not any(
        parameter.requires_grad for parameter in module.parameters()
    )
    got, got_grad = both()
    assert torch.allclose(got, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))
    assert torch.allclose(
        got_grad, expected_grad, rtol=1e-9, atol=1e-11 * float(expected_grad.abs().max())
    )


def test_the_memory_layout_of_weights_stays():
    module = _frozen(_seeded(_plain)).to(memory_format=torch.channels_last)
    strides = [part.weight.stride() for part in module if isinstance(part, nn.Conv2d)]
    fold_batch_norm(module, _images())
    assert [part.weight.stride() for part in module if isinstance(part, nn.Conv2d)] == strides


class _Branches(nn.Module):
    """A convolution and a BatchNorm joined in the way that `how` names; `_plain` behind them is
    always foldable.
    """

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.other = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.BatchNorm2d(3),
        )
        self.rest, self.how = _plain(), how

    def forward(self, x):
        if self.how == "norm without convolution":
            return self.rest(self.norm(x))
        y = self.conv(x)
        if self.how == "two norms on one output":
            return self.rest(self.norm(y) + self.other(y))
        if self.how == "output used beside the norm":
            return self.rest(self.norm(y) + y)
        if self.how == "output changed in place":
            return self.rest(self.norm(y.relu_()))
        if self.how == "convolution called twice":
            return self.rest(self.norm(y) + self.conv(x + 1))
        if self.how == "norm called twice":
            return self.rest(self.norm(y) + self.norm(x))
        if self.how == "result of the norm dropped":
            self.norm(y)
            return self.rest(y)
        raise AssertionError(self.how)


@pytest.mark.parametrize(
    "how",
    [
        "norm without convolution",
        "two norms on one output",
        "output used beside the norm",
        "output changed in place",
        "convolution called twice",
        "norm called twice",
        "result of the norm dropped",
    ],
)
def test_a_norm_that_is_not_alone_behind_its_convolution_is_left(how):
    module = _frozen(_seeded(lambda: _Branches(how)))
    norms, weight, expected = (module.norm, module.other), module.conv.weight, module(_images())
    assert fold_batch_norm(module, _images()) == 2  # the two of _plain
    assert (
        (module.norm, module.other) == norms
        and module.conv.weight is weight
        and _num_norms(module) == 2
    )
    assert torch.allclose(module(_images()), expected, rtol=1e-10)


def test_norms_in_training_mode_and_standardised_weights_are_left():
    from timm.layers import StdConv2d

    training = _frozen(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    training[1].train()
    standardised = _frozen(_seeded(lambda: nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4))))
    parametrised = _seeded(
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)
        )
    )
    stateless = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
        .double()
        .eval()
        .requires_grad_(False)
    )
    for module in (training, standardised, _frozen(parametrised), stateless):
        assert fold_batch_norm(module, _images()) == 0 and _num_norms(module) == 1


def test_a_network_without_norms_keeps_its_parameters():
    module = _frozen(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    weights = list(module.parameters())
    assert fold_batch_norm(module, _images()) == 0
    assert all(a is b for a, b in zip(module.parameters(), weights, strict=True))
    assert prepare_frozen(module, _images()) is module


class _Hidden(nn.Module):
    """Uses the convolution's output where no graph sees it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y.detach()


def test_a_fold_that_changes_the_output_is_refused_and_undone():
    module = _frozen(_seeded(_Hidden))
    parts, weight, bias, expected = (
        dict(module._modules),
        module.conv.weight,
        module.conv.bias,
        module(_images()),
    )
    with pytest.raises(
        ValueError,
        match=r"folding 1 BatchNorm layers of _Hidden changes its output by .*allowed is "
        r"0\.0001.*unfolded",
    ):
        fold_batch_norm(module, _images())
    assert module._modules == parts and module.conv.weight is weight and module.conv.bias is bias
    assert torch.equal(module(_images()), expected)
    with pytest.warns(UserWarning, match="slower: folding 1 BatchNorm"):
        assert prepare_frozen(module, _images()) is module


def test_a_trainable_network_is_refused():
    module = _frozen(_plain())
    module[3].requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"frozen networks only; 1 parameters require a gradient, first 3\.weight"
    ):
        fold_batch_norm(module, _images())


def test_preparing_leaves_the_encoder_and_gives_equal_features_and_pixel_gradients():
    encoder, pixels, used = _frozen(_seeded(_plain)), _images(7), torch.tensor([5, 1, 1, 6])
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    folded = prepare_frozen(encoder, pixels[:2])
    assert _num_norms(folded) == 0 and _num_norms(encoder) == 2
    assert encoder.state_dict().keys() == state.keys() and all(
        torch.equal(v, state[n]) for n, v in encoder.state_dict().items()
    )
    slow, fast = FrozenFeatures(encoder, pixels, used), FrozenFeatures(folded, pixels, used)
    grads = torch.randn(
        slow.values.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    assert torch.allclose(fast.values, slow.values, rtol=1e-10, atol=1e-12)
    assert torch.allclose(fast.pull_back(grads), slow.pull_back(grads), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("trainable", "runs_folded"), [("heads", True), ("full", False)])
def test_distilling_folds_frozen_encoders_only(tmp_path, trainable, runs_folded):
    """The network that runs inside the loop has norms exactly when it is trained; the caller's
    network always keeps them.
    """
    problem, running = make_problem(tmp_path, trainable), []
    # A trained encoder is a copy of its own inside the model; a frozen one is shared.
    module = problem.flat.model.image_encoder if trainable == "full" else problem.encoder.module
    module[1] = _frozen(
        nn.Sequential(nn.Conv2d(7, 7, 1), nn.BatchNorm2d(7), nn.GELU()), torch.float32
    )
    module.register_forward_pre_hook(lambda part, inputs: running.append(_num_norms(part)))
    run(
        problem,
        dataclasses.replace(CONFIG, iterations=1),
        6,
        Objective(lambda images, texts, rows: (images * texts).sum()),
    )
    assert (running[-1] == 0) == runs_folded and _num_norms(module) == 1
