"""Draws one of the texts of an image at every visit."""

from __future__ import annotations

import torch
from torch import Tensor


class TextDraws:
    """The texts of images, as a source of draws.

    No batch holds two texts of one image, so none is a false negative of another (METHOD 3).

    Args:
        text_image_idx: (T,) int64, the image of each text, ascending.
    """

    def __init__(self, text_image_idx: Tensor, num_images: int) -> None:
        self._counts = torch.bincount(text_image_idx, minlength=num_images)
        self._firsts = self._counts.cumsum(0) - self._counts

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the number of a text of each of the given images (B,), uniform over its texts."""
        draws = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        return self._firsts[rows] + (draws * self._counts[rows]).long()
