"""Brings layers to a standard form that computes the same and can be differentiated twice.

Three layers of ready-made networks need it: hard sigmoids, attention that keeps biases by position,
and convolutions that cut an image into patches. `encoders.ready` applies all three to a network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class HardSigmoid(nn.Module):
    """relu6(x + 3) / 6, without parameters.

    The exact engines differentiate a gradient. torch.nn.functional.hardsigmoid has neither a second
    reverse derivative nor a forward one of its gradient. In float64 its gradient is that of float32
    (6e-9 off), which one-sided differences divide by eps. relu6(x + 3) / 6 has all derivatives. On
    the CPU its values and float32 gradients equal torch's to the last bit, on a GPU to one unit of
    it. Hard swish needs nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of x, in its shape, within 0..1; x stays as it is."""
        return functional.relu6(x + 3.0) / 6.0


def use_differentiable_activations(module: nn.Module) -> None:
    """Replace every torch.nn.Hardsigmoid inside `module`, in place."""
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if name and type(layer) is nn.Hardsigmoid:
            module.set_submodule(name, HardSigmoid().train(layer.training))


CACHE = "attention_bias_cache"


def forget_attention_biases(module: nn.Module) -> None:
    """Make attention layers inside `module` gather their biases anew in each call, in place.

    In eval mode timm's LeViT, EfficientFormer, TinyViT and EfficientViT-M keep the biases of their
    first call. A later call under other parameters would use those of the first. Their graphs would
    stay alive, and no copy of a network may hold graphs.
    """
    for layer in module.modules():
        if isinstance(getattr(layer, CACHE, None), dict):
            layer.register_forward_pre_hook(_forget)
            layer.register_forward_hook(_forget)


def _forget(layer: nn.Module, *_: object) -> None:
    setattr(layer, CACHE, {})


class PatchConvolution(nn.Conv2d):
    """A Conv2d whose kernel equals its stride, as a Linear layer on patches, channels-last.

    Parameters and result are those of the convolution. Where kernel and stride agree, no pixel is
    used twice. Matching needs the pixels' gradient in every step, and the general convolution is
    slow at it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, O, H // k, W // l) of (B, C, H, W) for a k x l kernel. A rest at the right and
        lower edge is left out.
        """
        (height, width), (rows, columns) = (
            self.kernel_size,
            (input.shape[2] // self.kernel_size[0], input.shape[3] // self.kernel_size[1]),
        )
        inside = input.permute(0, 2, 3, 1)[:, : rows * height, : columns * width]
        # Within a patch channels come last, as they lie in memory: the copies move runs of width x
        # channels numbers.
        patches = (
            inside.view(inside.shape[0], rows, height, columns, width, self.in_channels)
            .transpose(2, 3)
            .flatten(3)
        )
        return functional.linear(
            patches, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias
        ).permute(0, 3, 1, 2)


def use_patch_products(module: nn.Module) -> None:
    """Replace every such convolution inside `module`, in place; names, values and identity of the
    parameters stay.
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
