"""Finds the texts of an image, and draws one of them at every visit."""

from __future__ import annotations

import torch
from torch import Tensor


class TextSpans:
    """The texts of each image, where the texts of one image follow each other.

    A batch draws one text per image. So no text is a false negative of another text of the same
    image (METHOD 3).

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
        # float64 below 1: the product rounds down to 0 .. counts - 1
        return self.firsts[images] + (draws * self.counts[images]).long()
