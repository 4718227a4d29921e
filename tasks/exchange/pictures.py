"""Normalised images to 8-bit pictures and back, and what 8 bits cost: by rounding and clipping."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product, zip_longest
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.core.networks.encoders import normalise

# Both are lossless; stronger compression of noisy pictures takes long and saves little
PICTURES: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 6},
    "webp": {"format": "WEBP", "lossless": True, "quality": 20, "method": 1},
}
# Images that are rounded at once: their float copies take memory
_AT_ONCE = 64


@dataclass(frozen=True)
class Cost:
    """The error of 8 bits, in the normalised space that students see.

    Attributes:
        largest, mean: absolute error of a value.
        num_clipped: values that were darker than 0 or lighter than 255.
        largest_rounded: absolute error of a value that was not clipped; 0 without one.
        largest_clipped, mean_clipped: absolute error of a value that was; 0 without one.
    """

    largest: float
    mean: float
    num_clipped: int
    num_values: int
    largest_rounded: float
    largest_clipped: float
    mean_clipped: float

    @property
    def in_words(self) -> str:
        """What rounding does and what clipping does, in one sentence each."""
        told = f"Rounding to 8 bits moves a normalised value by at most {self.largest_rounded:.4f}."
        if not self.num_clipped:
            return (
                f"{told} All {self.num_values:,} values lie within what a picture can show, so "
                "none is clipped."
            )
        return (
            f"{told} {self.num_clipped:,} of {self.num_values:,} values lie outside of what a "
            f"picture can show: clipping moves these by at most {self.largest_clipped:.4f}, by "
            f"{self.mean_clipped:.4f} in their mean. Both move a value by {self.mean:.5f} in the "
            "mean of all."
        )


def to_8_bits(
    images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[np.ndarray, Cost]:
    """Return (M, H, W, 3) uint8 pictures of normalised images (M, 3, H, W), and their cost."""
    scale, shift = torch.tensor([std, mean]).view(2, 1, -1, 1, 1)
    pictures, total, num_clipped = [], 0.0, 0
    largest_rounded, largest_clipped, total_clipped = 0.0, 0.0, 0.0
    for part in images.split(_AT_ONCE):
        # Normalised x stands for the pixel 255 * (x * std + mean)
        exact = part.mul(scale).add_(shift).mul_(255)
        rounded = exact.round()
        shown = rounded.clamp(0, 255)
        is_clipped = shown != rounded
        num_clipped += int(is_clipped.sum())
        # Back from pixels to the normalised space: over 255 * std
        error = exact.sub_(shown).abs_().div_(255 * scale)
        total += float(error.sum())
        clipped = error * is_clipped
        total_clipped += float(clipped.sum())
        largest_clipped = max(largest_clipped, float(clipped.max()))
        largest_rounded = max(largest_rounded, float((error * ~is_clipped).max()))
        pictures.append(shown.to(torch.uint8).permute(0, 2, 3, 1).contiguous())
    cost = Cost(
        largest=max(largest_rounded, largest_clipped),
        mean=total / images.numel(),
        num_clipped=num_clipped,
        num_values=images.numel(),
        largest_rounded=largest_rounded,
        largest_clipped=largest_clipped,
        mean_clipped=total_clipped / max(1, num_clipped),
    )
    return torch.cat(pictures).numpy(), cost


def cut(pictures: np.ndarray, parts: int) -> np.ndarray:
    """Return the parts of pictures (M, H, W, C), each (H / parts, W / parts, C).

    They come in the order of `split_parts`, at the resolution that is stored.
    """
    count, height, width, channels = pictures.shape
    size = (height // parts, width // parts)
    cells = pictures.reshape(count, parts, size[0], parts, size[1], channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *size, channels)


def to_images(
    pictures: Iterable[np.ndarray],
    shape: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    parts: int = 1,
) -> Tensor:
    """Return normalised images (M, 3, S, S) float32 of 8-bit pictures (S, S, 3), or of their
    parts in the order of `cut`.

    One picture is held at a time: all at once would take the memory of the images three times.

    Args:
        shape: M and S.

    Raises:
        ValueError: there are not M pictures, or M x parts^2 parts.
    """
    number, side = shape
    images = torch.empty(number, 3, side, side)
    cells = images.unflatten(3, (parts, -1)).unflatten(2, (parts, -1))
    places = list(product(range(number), range(parts), range(parts)))
    for place, picture in zip_longest(places, pictures):
        if place is None or picture is None:
            raise ValueError(f"fewer or more pictures than {len(places)}")
        image, row, column = place
        part = normalise(torch.tensor(picture[None]), mean, std)[0]
        cells[image, :, row, :, column].copy_(part)
    return images


def encode(picture: np.ndarray, kind: str) -> bytes:
    """Return a picture (H, W, 3) uint8 as the bytes of a file, without loss.

    Args:
        kind: one of `PICTURES`.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, **PICTURES[kind])
    return buffer.getvalue()
