"""Gives the real pairs of a split as batches for training."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.foundations.records import Split
from tasks.core.foundations.text_spans import TextSpans
from tasks.core.networks.encoders import ImageEncoder, normalise, take_rows
from tasks.core.training.augment import AugmentSection, augment


class SplitPairs:
    """All images of a split, each with a caption that is drawn anew at every visit.

    A batch holds an image once. So no caption of it counts as a negative of another (METHOD 3).

    Args:
        split: with `features` when the encoder is frozen. Features are then used in place of
            images, which are not read.
        encoder: gives the normalisation.
        section: augmentation of images.
        device: of the batches.
        caption_idx: (N,) fixes one caption per image instead.
    """

    def __init__(
        self,
        split: Split,
        encoder: ImageEncoder,
        section: AugmentSection,
        *,
        device: torch.device,
        caption_idx: Tensor | None = None,
    ) -> None:
        self.split, self.encoder, self.section, self.device = split, encoder, section, device
        self.caption_idx = caption_idx
        self._texts = TextSpans(split.caption_image_idx, split.num_images)

    @property
    def num_pairs(self) -> int:
        return self.split.num_images

    def take(
        self, rows: Tensor, captions: torch.Generator, pictures: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        if self.caption_idx is None:
            chosen = self._texts.draw(rows, captions)
        else:
            chosen = self.caption_idx[rows]
        text_embeds = self.split.text_embeds[chosen].to(self.device, non_blocking=True)
        # Features of a frozen encoder belong to images without augmentation
        if self.split.features is not None:
            return self.split.features[rows].to(self.device, non_blocking=True), text_embeds
        # Bytes go to the device, where they are augmented: a quarter of the traffic of float32
        raw = augment(take_rows(self.split.images, rows, self.device), self.section, pictures)
        return normalise(raw, self.encoder.mean, self.encoder.std), text_embeds
