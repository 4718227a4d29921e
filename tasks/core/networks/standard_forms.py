"""Brings layers to a standard form: the same result, but differentiable twice, pure and fast.

Three layers of ready-made networks need it. Hard sigmoids lack a second derivative. Some attention
layers keep biases of an earlier call. Convolutions that cut an image into patches are slow in the
reverse pass. `encoders.ready` applies all three to a network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class HardSigmoid(nn.Module):
    """relu6(x + 3) / 6, without parameters.

    The exact engines differentiate a gradient. torch.nn.functional.hardsigmoid has no second
    reverse derivative, and its gradient has no forward derivative. In float64 its gradient is only
    as exact as float32 (6e-9 off), and one-sided differences divide this error by eps. relu6(x + 3)
    / 6 has all derivatives. On the CPU its values and float32 gradients equal torch's to the last
    bit. On a GPU they differ by at most one unit of it. Hard swish needs no replacement.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of x, in its shape, within 0..1; x stays as it is."""
        return functional.relu6(x + 3.0) / 6.0


def use_differentiable_activations(module: nn.Module) -> None:
    """Replace every torch.nn.Hardsigmoid inside `module`, in place."""
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        # The module itself has no name, and no parent to put a replacement into
        if name and type(layer) is nn.Hardsigmoid:
            module.set_submodule(name, HardSigmoid().train(layer.training))


CACHE = "attention_bias_cache"


def forget_attention_biases(module: nn.Module) -> None:
    """Make attention layers inside `module` gather their biases anew in each call, in place.

    In eval mode timm's LeViT, EfficientFormer, TinyViT and EfficientViT-M keep the biases of their
    first call. A later call under other parameters would use those of the first. The graph of the
    first call would stay alive too, and a network that holds a graph cannot be copied.
    """
    # Before a call, so that it gathers under its own parameters; after it, so that no graph stays
    for layer in module.modules():
        if isinstance(getattr(layer, CACHE, None), dict):
            layer.register_forward_pre_hook(_forget)
            layer.register_forward_hook(_forget)


def _forget(layer: nn.Module, *_: object) -> None:
    setattr(layer, CACHE, {})


class PatchConvolution(nn.Conv2d):
    """A Conv2d with equal kernel and stride, computed as a Linear layer on patches, channels-last.

    Parameters and result are those of the convolution. Kernel and stride are equal, so each pixel
    is in one patch, and one matrix product does it. Matching needs the gradient of the pixels in
    every step, and the general convolution is slow at it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, O, H // k, W // l) of (B, C, H, W) for a k x l kernel. Pixels at the right and
        lower edge that fill no patch are left out.
        """
        (height, width), (rows, columns) = (
            self.kernel_size,
            (input.shape[2] // self.kernel_size[0], input.shape[3] // self.kernel_size[1]),
        )
        inside = input.permute(0, 2, 3, 1)[:, : rows * height, : columns * width]
        # (B, rows, columns, height * width * C): within a patch channels come last, as in memory,
        # so the copy moves runs of width * C numbers
        patches = (
            inside.view(inside.shape[0], rows, height, columns, width, self.in_channels)
            .transpose(2, 3)
            .flatten(3)
        )
        return functional.linear(
            patches, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias
        ).permute(0, 3, 1, 2)


def use_patch_products(module: nn.Module) -> None:
    """Replace each convolution inside `module` that cuts patches by a `PatchConvolution`, in place.
    Names, values and identity of the parameters stay.
    """
    for name, layer in list(module.named_modules()):
        if name and type(layer) is nn.Conv2d and _cuts_patches(layer):
            owner = module.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], _as_patches(layer))


def _cuts_patches(layer: nn.Conv2d) -> bool:
    is_plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding in ((0, 0), "valid")
    return is_plain and layer.kernel_size == layer.stride != (1, 1)


def _as_patches(layer: nn.Conv2d) -> PatchConvolution:
    rows, columns = layer.kernel_size
    # The new layer gets the parameters of the old one, so none are allocated or drawn
    with torch.device("meta"):
        patches = PatchConvolution(
            layer.in_channels,
            layer.out_channels,
            (rows, columns),
            (rows, columns),
            bias=layer.bias is not None,
        )
    patches.weight, patches.bias = layer.weight, layer.bias
    return patches.train(layer.training)
