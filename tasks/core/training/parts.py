"""Cuts stored pictures into parts that are images of their own (multi-formation of IDC, Kim et al.,
ICML 2022). A picture of 2 x 2 parts is four images of half the resolution, each with its own text.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def split_parts(images: Tensor, parts: int) -> Tensor:
    """Return the parts of pictures, each resized to the size of a picture, (M x parts^2, C, H, W).

    The parts of one picture follow each other, row by row. Resizing is bilinear, so the result is
    linear in the pixels.

    Args:
        images: (M, C, H, W).
        parts: number of parts along a side. H and W are multiples of it. 1 returns `images`.
    """
    if parts == 1:
        return images
    count, channels, height, width = images.shape
    # (M, C, row of parts, h, column of parts, w); then parts before channels
    cells = images.reshape(count, channels, parts, height // parts, parts, width // parts)
    small = cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // parts, width // parts)
    return interpolate(small, size=(height, width), mode="bilinear", align_corners=False)


def join_parts(images: Tensor, parts: int) -> Tensor:
    """Return pictures (M, C, H, W) with the given images (M x parts^2, C, H, W) as their parts.

    Each pixel of a part is the mean of parts x parts pixels of its image. H and W are those of the
    images.
    """
    if parts == 1:
        return images
    count, channels, height, width = images.shape
    size = (height // parts, width // parts)
    small = interpolate(images, size=size, mode="area")
    cells = small.reshape(count // parts**2, parts, parts, channels, *size)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def pull_back_parts(grads: Tensor, pictures: Tensor, parts: int) -> Tensor:
    """Return dL/d(pictures), shaped like `pictures`, for dL/d(parts) (M x parts^2, C, H, W)."""
    if parts == 1:
        return grads
    # Cutting is linear, so its transpose is exact at any pictures; autograd forms it
    with torch.enable_grad():
        leaf = pictures.detach().requires_grad_()
        (found,) = torch.autograd.grad(split_parts(leaf, parts), leaf, grads)
    return found
