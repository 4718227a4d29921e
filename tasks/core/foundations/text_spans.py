"""Finds the texts of an image, and draws one of them at every visit."""

from __future__ import annotations

import torch
from torch import Tensor


class TextSpans:
    """The texts of images, which follow each other.

    No batch holds two texts of one image, so none is a false negative of another (METHOD 3).

    Args:
        text_image_idx: (T,) int64, the image of each text, ascending.
        num_images: N.

    Attributes:
        counts: (N,) how many texts each image has.
        firsts: (N,) the number of its first text.
    """

    def __init__(self, text_image_idx: Tensor, num_images: int) -> None:
        self.counts = torch.bincount(text_image_idx, minlength=num_images)
        self.firsts = self.counts.cumsum(0) - self.counts

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the number of a text of each of the given images (B,), uniform over its texts."""
        draws = torch.rand(len(images), generator=generator, dtype=torch.float64)
        return self.firsts[images] + (draws * self.counts[images]).long()
