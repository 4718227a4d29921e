"""Where a synthetic set starts from (METHOD 4): real pairs or noise, for images and texts independently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.core.encoders import ImageEncoder, normalise, take_rows
from tasks.core.records import Split
from tasks.core.seeding import make_generator
from tasks.core.selection import check_budget, sample_captions

_SAMPLE = 1024


@dataclass(frozen=True)
class Start:
    """Initial synthetic pairs.

    Attributes:
        images: (M, 3, S, S) float32, normalised, on the CPU.
        texts: (M, D) float32.
        image_idx, caption_idx: the real pairs (M,) they come from; noise keeps the pairs it replaces, for the gallery.
    """

    images: Tensor
    texts: Tensor
    image_idx: Tensor
    caption_idx: Tensor


def initial_pairs(
    train: Split, encoder: ImageEncoder, num_pairs: int, *, image: Literal["real", "noise"], text: Literal["real", "noise"], seed: int
) -> Start:
    """Return `num_pairs` initial pairs: random images with one random caption each, or Gaussian noise with the training
    set's moments, per channel for images and per dimension for texts.
    """
    check_budget(num_pairs, train.num_images)
    generator = make_generator(seed, "initial_pairs")
    image_idx = torch.randperm(train.num_images, generator=generator)[:num_pairs]
    caption_idx = sample_captions(image_idx, train.caption_image_idx, generator)
    images = normalise(take_rows(train.images, image_idx), encoder.mean, encoder.std)
    texts = train.text_embeds[caption_idx].clone()
    if image == "noise":
        sample = torch.randperm(train.num_images, generator=generator)[:_SAMPLE].sort().values
        real = normalise(take_rows(train.images, sample), encoder.mean, encoder.std)
        std, mean = torch.std_mean(real, dim=(0, 2, 3), keepdim=True)
        images = mean + std * torch.randn(images.shape, generator=generator)
    if text == "noise":
        std, mean = torch.std_mean(train.text_embeds, dim=0, keepdim=True)
        texts = mean + std * torch.randn(texts.shape, generator=generator)
    return Start(images.contiguous(), texts, image_idx, caption_idx)
