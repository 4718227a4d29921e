"""One segment of an expert's trajectory as the student's goal, and the mini-batches of synthetic
pairs on the way (METHOD 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.functional import GROUPS, Theta


@dataclass(frozen=True)
class Segment:
    """Start and end of an expert's segment and its squared length per group; make it with
    `between`.

    Attributes:
        start, target: {"img": (P_img,), "txt": (P_txt,)}.
        lengths: |start - target|^2, a scalar for each group that is not empty.
        merge_branches: one ratio (num_img + num_txt) / (den_img + den_txt) for both groups together
            (LoRS on COCO).
    """

    start: Theta
    target: Theta
    lengths: dict[str, Tensor]
    merge_branches: bool

    @staticmethod
    def between(start: Theta, target: Theta, *, merge_branches: bool = False) -> Segment:
        """Measure a segment and check it once, so that `loss` needs no synchronisation with the
        device.

        Raises:
            ValueError: the expert did not move in a group (with `merge_branches` in both), so that
                the ratio has no meaning.
        """
        lengths = {
            group: (start[group] - target[group]).square().sum()
            for group in GROUPS
            if target[group].numel() > 0
        }
        values = dict(zip(lengths, torch.stack(list(lengths.values())).tolist(), strict=True))
        checked = {"img and txt": sum(values.values())} if merge_branches else values
        still = [group for group, value in checked.items() if not 0.0 < value < float("inf")]
        if still:
            raise ValueError(
                "the expert's parameters do not move, or are not finite, between start and "
                f"target in {', '.join(still)}; "
                f"received squared lengths {values}; allowed are segments with a positive finite "
                "length; check lr_img and lr_txt "
                "of train_experts"
            )
        return Segment(start, target, lengths, merge_branches)

    def loss(self, theta: Theta) -> Tensor:
        """Return the matching loss of a student's end, sum over groups of |theta - target|^2 /
        |start - target|^2, a scalar.
        """
        if self.merge_branches:
            return (
                torch.stack(list(self._distances(theta).values())).sum()
                / torch.stack(list(self.lengths.values())).sum()
            )
        return torch.stack(list(self.ratios(theta).values())).sum()

    def ratios(self, theta: Theta) -> dict[str, Tensor]:
        """Return |theta - target|^2 / |start - target|^2 of each group that is not empty; 0 of one
        that stands still in the expert.
        """
        # Still groups exist with `merge_branches` alone, whose loss has no ratio of a group by
        # itself.
        lengths = {
            group: torch.where(length > 0.0, length, math.inf)
            for group, length in self.lengths.items()
        }
        return {
            group: distance / lengths[group] for group, distance in self._distances(theta).items()
        }

    def _distances(self, theta: Theta) -> dict[str, Tensor]:
        return {group: (theta[group] - self.target[group]).square().sum() for group in self.lengths}


def draw_batches(
    num_pairs: int, batch_size: int, num_steps: int, generator: torch.Generator
) -> list[Tensor]:
    """Return `num_steps` index tensors (batch_size,): every pair once before any twice, no pair
    twice in one batch.

    Raises:
        ValueError: the batch is larger than the set.
    """
    if not 1 <= batch_size <= num_pairs:
        raise ValueError(
            f"a mini-batch of {batch_size} pairs cannot be drawn from {num_pairs} pairs; allowed "
            f"is 1 to {num_pairs}; "
            "change mini_batch_size or the number of pairs"
        )
    device = generator.device
    pool = torch.empty(0, dtype=torch.long, device=device)
    batches = []
    for _ in range(num_steps):
        if len(pool) < batch_size:
            fresh = torch.randperm(num_pairs, generator=generator, device=device)
            # A batch that crosses into the next pass takes first those that it does not hold
            # already.
            is_held = torch.isin(fresh, pool)
            pool = torch.cat([pool, fresh[~is_held], fresh[is_held]])
        batches.append(pool[:batch_size])
        pool = pool[batch_size:]
    return batches
