"""Makes the images that students see out of stored pictures (multi-formation of IDC, Kim et al.,
ICML 2022). A picture of 2 x 2 parts is four images of half the resolution, each with its own text.
Pictures that are smaller than images are enlarged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def split_parts(pictures: Tensor, parts: int, image_size: int | None = None) -> Tensor:
    """Return the parts of pictures as images, (M x parts^2, C, image_size, image_size).

    The parts of one picture follow each other, row by row. Resizing is bilinear, so the result is
    linear in the pixels.

    Args:
        pictures: (M, C, H, W).
        parts: number of parts along a side. H and W are multiples of it.
        image_size: side of an image in pixels; None: H x W, that of a picture.
    """
    count, channels, height, width = pictures.shape
    size = (height, width) if image_size is None else (image_size, image_size)
    if parts == 1 and size == (height, width):
        return pictures
    # (M, C, row of parts, h, column of parts, w); then parts before channels
    cells = pictures.reshape(count, channels, parts, height // parts, parts, width // parts)
    small = cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // parts, width // parts)
    return interpolate(small, size=size, mode="bilinear", align_corners=False)


def join_parts(images: Tensor, parts: int, picture_size: int | None = None) -> Tensor:
    """Return pictures (M, C, picture_size, picture_size) with the given images as their parts.

    Each pixel of a part is the mean of the pixels of its image that it covers.

    Args:
        images: (M x parts^2, C, H, W).
        picture_size: side of a picture in pixels, a multiple of `parts`; None: H x W.
    """
    count, channels, height, width = images.shape
    size = (height, width) if picture_size is None else (picture_size, picture_size)
    if parts == 1 and size == (height, width):
        return images
    part_size = (size[0] // parts, size[1] // parts)
    small = interpolate(images, size=part_size, mode="area")
    cells = small.reshape(count // parts**2, parts, parts, channels, *part_size)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, *size)


def pull_back_parts(grads: Tensor, pictures: Tensor, parts: int) -> Tensor:
    """Return dL/d(pictures), shaped like `pictures`, for dL/d(images) (M x parts^2, C, S, S)."""
    if parts == 1 and grads.shape == pictures.shape:
        return grads
    # Cutting and resizing are linear, so their transpose is exact at any pictures; autograd forms
    # it
    with torch.enable_grad():
        leaf = pictures.detach().requires_grad_()
        (found,) = torch.autograd.grad(split_parts(leaf, parts, grads.shape[-1]), leaf, grads)
    return found
