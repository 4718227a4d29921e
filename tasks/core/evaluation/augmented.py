"""Augments the pictures of a set while a student trains on it, for the augmentation robust score
(docs/measures.md).

A picture is seen as a random crop of at least half of its area, mirrored half of the time. A
trained encoder sees a new crop at every visit. Under a frozen one each picture has `NUM_VIEWS`
crops, which are encoded once, and a visit takes one of them: new crops would cost a pass through
the encoder at every visit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.training.augment import crop_and_flip
from tasks.core.training.epoch import Pairs

MIN_AREA = 0.5  # the smallest share of a picture's area in a crop
NUM_VIEWS = 10


class AugmentedPairs:
    """Pairs with augmented pictures, as batches for training.

    Args:
        pairs: as they are without augmentation.
        views: (V, num_images, F) features of V views of each image under a frozen encoder, which
            take the place of its own; None crops the images that `pairs` gives.
    """

    def __init__(self, pairs: Pairs, views: Tensor | None) -> None:
        self._pairs, self._views = pairs, views

    @property
    def num_pairs(self) -> int:
        return self._pairs.num_pairs

    def take(
        self, rows: Tensor, captions: torch.Generator, pictures: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        images, text_embeds = self._pairs.take(rows, captions, pictures)
        if self._views is None:
            return augmented(images, pictures), text_embeds
        drawn = torch.randint(len(self._views), (len(rows),), generator=pictures)
        device = self._views.device
        return self._views[drawn.to(device), rows.to(device)], text_embeds


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return (B, C, H, W) images, cropped and mirrored at random.

    Args:
        generator: a CPU generator; source of all draws.
    """
    return crop_and_flip(images, MIN_AREA, generator, flip=True)
