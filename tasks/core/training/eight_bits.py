"""Rounds a set to the values that 8-bit pictures and float16 texts can hold.

`storage: uint8` of a method rounds inside the loop. Students see rounded pixels and texts. The
gradient of the rounded values moves the exact ones, as if nothing were rounded (straight-through
estimator, Bengio et al., arXiv 1308.3432). So the stored set is the one that was optimised.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tasks.core.networks.encoders import normalise

Storage = Literal["float32", "uint8"]
_LEVELS = 255


def to_pictures(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return the nearest (M, H, W, C) uint8 pictures of normalised (M, C, H, W) images."""
    scale, shift = _columns(images, std), _columns(images, mean)
    # `mul` makes a new tensor, so the rest may work in place on it
    levels = images.mul(scale).add_(shift).mul_(_LEVELS).round_().clamp_(0, _LEVELS)
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


def round_images(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return normalised images whose pixels are those of the nearest 8-bit pictures."""
    return normalise(to_pictures(images, mean, std), mean, std)


def round_texts(text_embeds: Tensor) -> Tensor:
    """Return the nearest values that float16 holds, as float32.

    Raises:
        ValueError: a value is larger than float16 can hold.
    """
    rounded = text_embeds.to(torch.float16)
    if not rounded.isfinite().all():
        largest = float(text_embeds.abs().max())
        raise ValueError(
            f"storage: received 'uint8', and a text value of {largest:g}; float16 holds up to "
            "65504; lower lr_txt, or set `storage: float32` in the method's options of params.yaml"
        )
    return rounded.to(torch.float32)


def keep_in_range(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Clamp normalised images (M, C, H, W) in place to black and white, 0 and 1 in pixels."""
    # Pixel p is x * std + mean, so x lies between -mean / std and (1 - mean) / std in each channel
    scale, shift = _columns(images, std), _columns(images, mean)
    torch.maximum(images, -shift / scale, out=images)
    torch.minimum(images, (1.0 - shift) / scale, out=images)


def _columns(images: Tensor, values: tuple[float, ...]) -> Tensor:
    """Return one value per channel as (C, 1, 1), on the device of the images."""
    return torch.tensor(values, dtype=torch.float32, device=images.device).view(-1, 1, 1)
