"""Converts a set of pairs for an image encoder that it was not distilled with, for
cross-architecture evaluation (METHOD 8).

The images of a set have the normalisation and the size of the encoder that they were made for.
Another encoder has another normalisation, and may take another size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.core.foundations.section import Range, Section
from tasks.core.networks.dual_encoder import EmbedDim, Trainable
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.lora import LoraSection
from tasks.core.training.pair_set import PairSet


@dataclass(frozen=True, kw_only=True)
class StudentSection(Section):
    """A further student of `evaluate.cross_architecture` (METHOD 8). The name and the options of
    its image encoder stand beside this section, and what it changes of `small` and `full`.

    Attributes:
        trainable, lora, embed_dim: as in `ModelSection`; dropout and tau are those of `model`.
        input_size: side of the images that the encoder takes, pixels; images of another size are
            resized. null takes them as prepared.
    """

    trainable: Trainable
    lora: LoraSection | None
    embed_dim: EmbedDim
    input_size: Annotated[int, Range(ge=8, le=1024, unit="px")] | None


def transfer(pairs: PairSet, encoder: ImageEncoder, input_size: int | None) -> PairSet:
    """Return `pairs` for students with another encoder: images in its normalisation and size, and
    no learned step sizes.

    Images become ((x * std + mean) - mean_new) / std_new, and are then resized. Pixels outside 0..1
    are not clamped. Distillation in float32 does not keep them inside, and students of its own
    encoder see them as they are. Learned step sizes belong to the parameters of that encoder, so
    students take those of the recipe. Texts and similarity are kept. Images that need no change are
    the same tensor.

    Args:
        input_size: side of the images that the encoder takes, pixels; None for any size.
    """
    # Equal normalisations are skipped: there the map would only round
    images = pairs.student_images()
    if (pairs.mean, pairs.std) != (encoder.mean, encoder.std):
        channels = list(zip(pairs.mean, pairs.std, encoder.mean, encoder.std, strict=True))
        scale = torch.tensor([old_std / std for _, old_std, _, std in channels]).view(-1, 1, 1)
        shift = torch.tensor([(old_mean - mean) / std for old_mean, _, mean, std in channels]).view(
            -1, 1, 1
        )
        images = images * scale + shift
    if input_size is not None:
        images = resize(images, input_size)
    return replace(
        pairs,
        images=images,
        mean=encoder.mean,
        std=encoder.std,
        step_sizes=None,
        # `student_images` has made images out of pictures, and their values are not those of 8 bits
        parts=1,
        image_size=None,
        storage="float32",
    )


def at_size(encoder: ImageEncoder, input_size: int | None) -> ImageEncoder:
    """Return the encoder with a resize of its images to `input_size` pixels before it. For None it
    is the encoder itself.
    """
    if input_size is None:
        return encoder
    return replace(encoder, module=Resized(encoder.module, input_size))


class Resized(nn.Module):
    """A network that takes images of any size: (B, C, H, W) -> `network` of (B, C, size, size).

    Resizing is linear and its weights sum to one. So it gives the same images before and after
    normalisation.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(resize(images, self.size))
        return features


def resize(images: Tensor, size: int) -> Tensor:
    """Return (B, C, size, size) images by antialiased bilinear interpolation. Images of that size
    stay as they are.
    """
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
