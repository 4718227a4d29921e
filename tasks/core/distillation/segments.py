"""The goal of trajectory matching (METHOD 4): a random segment of a random expert, which the
student has to follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.matching_config import MatchingConfig
from tasks.core.distillation.objective import Goal
from tasks.core.networks.functional import GROUPS, Theta


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


def draw_start(buffer: Buffer, config: MatchingConfig, draw: torch.Generator) -> tuple[int, int]:
    """Return a random expert, and the epoch at which the student starts on its trajectory."""
    expert = int(torch.randint(buffer.num_experts, (1,), generator=draw))
    return expert, int(torch.randint(config.max_start_epoch, (1,), generator=draw))


def draw_segment(buffer: Buffer, config: MatchingConfig, draw: torch.Generator) -> Goal:
    """Return the goal theta*_s -> theta*_{s + expert_epochs} of a random expert and epoch s.

    Raises:
        ValueError: the expert did not move on the segment, or was not trained that far.
    """
    expert, epoch = draw_start(buffer, config, draw)
    start = buffer.snapshot(expert, epoch)
    target = buffer.snapshot(expert, epoch + config.expert_epochs)
    segment = Segment.between(start, target, merge_branches=config.merge_branches)

    def terms(theta: Theta) -> dict[str, float]:
        ratios = segment.ratios(theta)
        return {f"loss_{group}": float(ratios.get(group, 0.0)) for group in GROUPS}

    return Goal(start, segment.loss, terms)
