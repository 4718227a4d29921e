"""Defines what a coreset method selects from and what it returns, and holds the mathematics of the
methods (METHOD 7). The methods themselves are in `coresets/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.core.selection.real_bytes import RealBytes


@dataclass(frozen=True)
class Pool:
    """What a coreset method selects from: one caption per image, and features of a warmed-up model.

    Attributes:
        caption_idx: (N,) int64, the caption of each image, drawn once.
        image_features, text_features: (N, d) L2-normalised features of the images and of those
            captions.
        shared: tensors that `prepare` of the method returned, the same for every budget; empty for
            a method without `prepare`.
        real: counts the bytes of the pairs.
    """

    caption_idx: Tensor
    image_features: Tensor
    text_features: Tensor
    shared: dict[str, Tensor] = field(default_factory=dict)
    real: RealBytes | None = None

    @property
    def num_images(self) -> int:
        return len(self.caption_idx)

    @property
    def pair_features(self) -> Tensor:
        """Image and text features side by side, (N, 2d). Squared distances then add up over both
        modalities.
        """
        return torch.cat([self.image_features, self.text_features], dim=1)

    def select(self, image_idx: Tensor) -> Selection:
        """Return the pairs of the given images."""
        return Selection(image_idx, self.caption_idx[image_idx])


@dataclass(frozen=True)
class Selection:
    """Chosen pairs, no image twice.

    Attributes:
        image_idx: (M,) int64.
        caption_idx: (T,) int64.
        text_image_idx: (T,) int64, the place in `image_idx` that each caption belongs to; None: one
            caption an image.
    """

    image_idx: Tensor
    caption_idx: Tensor
    text_image_idx: Tensor | None = None


def check_budget(num_pairs: int, num_images: int) -> None:
    """Raise ValueError unless 1 <= num_pairs <= num_images."""
    if not 1 <= num_pairs <= num_images:
        raise ValueError(
            f"cannot select {num_pairs} pairs from {num_images} images; allowed is 1 to "
            f"{num_images}; change `budgets` in params.yaml"
        )


def sample_captions(
    image_idx: Tensor, caption_image_idx: Tensor, generator: torch.Generator
) -> Tensor:
    """Return one caption index for each image (M,), uniform over the captions of that image.

    Args:
        image_idx: (M,) images.
        caption_image_idx: (T,) the image of each caption, in any order.
        generator: of the draws, one after the other.
    """
    # `by_image` lists the captions image after image, and `firsts` says where each image begins
    by_image = caption_image_idx.argsort(stable=True)
    counts = torch.bincount(caption_image_idx)
    firsts = (counts.cumsum(0) - counts)[image_idx]
    draws = [
        int(torch.randint(count, (1,), generator=generator)) for count in counts[image_idx].tolist()
    ]
    return by_image[firsts + torch.tensor(draws, dtype=torch.long)]


def herd(points: Tensor, num_points: int) -> Tensor:
    """Return indices (M,) of points (N, d), chosen greedily. Each choice brings the mean of the
    chosen points closest to the mean of all.
    """
    mean, total = points.mean(0), torch.zeros_like(points[0])
    is_free = torch.ones(len(points), dtype=torch.bool, device=points.device)
    norms = points.square().sum(1)
    chosen = []
    for count in range(1, num_points + 1):
        # count^2 |(total + p) / count - mean|^2 without the terms that are equal for all p
        cost = norms + 2 * points @ (total - count * mean)
        index = int(cost.masked_fill(~is_free, torch.inf).argmin())
        chosen.append(index)
        is_free[index] = False
        total = total + points[index]
    return torch.tensor(chosen)


def herd_products(first: Tensor, second: Tensor, num_points: int) -> Tensor:
    """Return indices (M,) of pairs (x, y), chosen greedily. Each choice brings the mean outer
    product x y^T of the chosen pairs closest to the mean of all, in the Frobenius norm.

    It is `herd` of the products x y^T. These would take N d e numbers and are never written out:
    <x y^T, x' y'^T> = <x, x'> <y, y'>.

    Args:
        first: (N, d), the x.
        second: (N, e), the y.
    """
    norms = first.square().sum(1) * second.square().sum(1)
    # Inner products of each x y^T with the mean, and with the sum of the chosen, (N,)
    to_mean = ((first @ (first.T @ second)) * second).sum(1) / len(first)
    to_chosen = torch.zeros_like(norms)
    is_free = torch.ones(len(first), dtype=torch.bool, device=first.device)
    chosen = []
    for count in range(1, num_points + 1):
        cost = norms + 2 * (to_chosen - count * to_mean)
        index = int(cost.masked_fill(~is_free, torch.inf).argmin())
        chosen.append(index)
        is_free[index] = False
        to_chosen += (first @ first[index]) * (second @ second[index])
    return torch.tensor(chosen)


def farthest_first(points: Tensor, num_points: int, generator: torch.Generator) -> Tensor:
    """Return indices (M,) of points (N, d). The first is random. Each next one is the farthest from
    the nearest chosen point. It costs O(N M d).
    """
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest = (points - points[chosen[0]]).square().sum(1)
    nearest[chosen[0]] = -1.0  # below every distance, so that none is chosen twice
    for _ in range(num_points - 1):
        index = int(nearest.argmax())
        chosen.append(index)
        nearest = torch.minimum(nearest, (points - points[index]).square().sum(1))
        nearest[index] = -1.0
    return torch.tensor(chosen)


def count_forgetting(history: Tensor) -> Tensor:
    """Return (N,) float32, how often each pair went from correct to incorrect. A pair that never
    was correct counts as infinite.

    Args:
        history: (E, N) bool, whether each pair was correct in each epoch.
    """
    # A pair that never was correct has no events. Without the infinity it would look like one that
    # is never forgotten, and be chosen first.
    events = (history[:-1] & ~history[1:]).sum(0).float()
    return events.masked_fill(~history.any(0), torch.inf)
