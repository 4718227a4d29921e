"""Makes the pairs that a synthetic set starts from (METHOD 4): real ones, prototypes or noise, for
images and texts independently.

* `real`: random images, one random caption each.
* `k_means`: the real pairs nearest to the centroids of k-means on pair features: the image and the
  text feature, L2-normalised and side by side, of at most 16384 random images with one random
  caption each. Text features are the caption embeddings. Image features are those of the frozen
  encoder, or of the pretrained one that training starts from. If one modality alone says `k_means`,
  `real` rows of the other are of the same pairs, so that image and text belong together.
* `noise`: Gaussian with the training set's moments, per channel for images and per dimension for
  texts.

`earlier_pairs.py` puts the pairs of a finished set before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tasks.core.distillation.matching_config import Initial
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.text_spans import TextSpans
from tasks.core.networks.encoders import ImageEncoder, encode_images
from tasks.core.selection.k_means import nearest, prototypes
from tasks.core.selection.pool import check_budget, sample_captions
from tasks.core.training.parts import join_parts

_SAMPLE, _CLUSTERED = 1024, 16384


@dataclass(frozen=True)
class InitialPairs:
    """The pairs that a set starts from; N images are M pictures of several parts, or M is N.

    Attributes:
        images: (M, 3, S, S) float32, normalised, on the CPU.
        text_embeds: (T, D) float32, the texts of an image one after the other.
        image_idx: the real images (N,) that they come from. Noise keeps those that it replaces,
            for the gallery. An imported set has the images of `caption_idx`.
        caption_idx: their captions (T,). An imported set has the nearest ones.
        log_weights: (N,) logarithms of the share of all sampled pairs that k-means assigns to each,
            relative to their mean; None without k-means.
    """

    images: Tensor
    text_embeds: Tensor
    image_idx: Tensor
    caption_idx: Tensor
    log_weights: Tensor | None = None


def initial_pairs(
    train: Split,
    encoder: ImageEncoder,
    num_pictures: int,
    *,
    image: Initial,
    text: Initial,
    seed: int,
    texts_per_image: int = 1,
    parts: int = 1,
    picture_size: int | None = None,
    without: Tensor | None = None,
) -> InitialPairs:
    """Return the initial pairs of `num_pictures` pictures.

    Args:
        encoder: gives the normalisation, and the image features of `k_means` where the split has
            none.
        image, text: how each modality starts.
        texts_per_image: captions of each image; one that has fewer starts with some twice.
        parts: images of a side of a picture.
        picture_size: side of a picture in pixels; None: that of the split's images.
        without: real images that are left out.
    """
    num_pairs = num_pictures * parts**2
    left_out = torch.tensor([], dtype=torch.int64) if without is None else without.unique()
    _check_parts(train, num_pictures, parts, picture_size, train.num_images - len(left_out))
    generator = make_generator(seed, "initial_pairs")
    image_idx = _shuffled(train, left_out, generator)[:num_pairs]
    caption_idx = sample_captions(image_idx, train.caption_image_idx, generator)
    log_weights = None
    if "k_means" in (image, text):
        # From a generator of its own, so that noise is the same with and without prototypes
        draw = make_generator(seed, "k_means")
        image_idx, caption_idx, log_weights = _prototype_pairs(
            train, encoder, num_pairs, left_out, draw
        )
    if texts_per_image > 1:
        caption_idx = _further_captions(train, image_idx, caption_idx, texts_per_image)
    images = join_parts(encoder.take(train.images, image_idx), parts, picture_size)
    text_embeds = train.text_embeds[caption_idx].clone()
    if image == "noise":
        sample = torch.randperm(train.num_images, generator=generator)[:_SAMPLE].sort().values
        real = encoder.take(train.images, sample)
        std, mean = torch.std_mean(real, dim=(0, 2, 3), keepdim=True)
        images = mean + std * torch.randn(images.shape, generator=generator)
    if text == "noise":
        std, mean = torch.std_mean(train.text_embeds, dim=0, keepdim=True)
        text_embeds = mean + std * torch.randn(text_embeds.shape, generator=generator)
    return InitialPairs(images.contiguous(), text_embeds, image_idx, caption_idx, log_weights)


def _shuffled(train: Split, left_out: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images that are not left out in a random order."""
    order = torch.randperm(train.num_images, generator=generator)
    return order[~torch.isin(order, left_out)]


def _check_parts(
    train: Split, num_pictures: int, parts: int, picture_size: int | None, num_images: int
) -> None:
    check_budget(num_pictures, num_images)
    side, needed = picture_size or train.images.shape[1], num_pictures * parts**2
    if side % parts or needed > num_images:
        raise ValueError(
            f"parts: received {parts} for {num_pictures} pictures of {side} px; they start from "
            f"{needed} of {num_images} training images, and a side has to be a multiple of "
            "its parts; change `parts` in the method's options, or `budgets`, in params.yaml"
        )


def _further_captions(
    train: Split, image_idx: Tensor, caption_idx: Tensor, texts_per_image: int
) -> Tensor:
    """Return each image's drawn caption and those that follow it in its file, (N x texts,)."""
    spans = TextSpans(train.caption_image_idx, train.num_images)
    firsts, counts = spans.firsts[image_idx, None], spans.counts[image_idx, None]
    places = caption_idx[:, None] - firsts + torch.arange(texts_per_image)
    return (firsts + places % counts).flatten()


def _prototype_pairs(
    train: Split,
    encoder: ImageEncoder,
    num_pairs: int,
    left_out: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    sample = _shuffled(train, left_out, generator)[: max(_CLUSTERED, num_pairs)]
    pool = sample.sort().values  # in the order of the file, which is faster to read
    captions = TextSpans(train.caption_image_idx, train.num_images).draw(pool, generator)
    if train.features is None:
        device = next(encoder.module.parameters()).device
        features = encode_images(encoder, train.images, device=device, rows=pool)
    else:
        features = train.features[pool]
    # Both modalities count alike: each half of a point has length 1
    text_features = normalize(train.text_embeds[captions], dim=1)
    points = torch.cat([normalize(features, dim=1), text_features], dim=1)
    chosen = prototypes(points, num_pairs, generator)
    # A prototype that is there twice stands for one pair at least
    mass = torch.bincount(nearest(points, points[chosen]), minlength=num_pairs).clamp(min=1)
    return pool[chosen], captions[chosen], (mass / mass.float().mean()).log()
