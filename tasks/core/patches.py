"""Convolutions that cut an image into patches, as the matrix product that they are.

Where kernel and stride agree, no pixel is used twice: the convolution is a Linear layer on patches.
Gradients of matching reach the pixels in every step, and the general convolution is slow at that:
on one CPU core 15 of the 37 ms that the gradient of a small ViT takes, and more in second
derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PatchConvolution(nn.Conv2d):
    """A Conv2d whose kernel equals its stride; same parameters and result, channels-last."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, O, H // k, W // l) of (B, C, H, W) for a k x l kernel; what is left at the
        right and lower edge is not seen.
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
