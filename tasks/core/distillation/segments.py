"""Draws the goal of trajectory matching (METHOD 4): a random segment of a random expert, which the
student has to follow. `trajectories.py` says what an expert's trajectory is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.matching_config import Distance, MatchingConfig
from tasks.core.distillation.objective import Goal
from tasks.core.distillation.trajectories import Trajectories
from tasks.core.networks.functional import GROUPS, FlatModel, Theta


@dataclass(frozen=True)
class Segment:
    """The end of an expert's segment, and its length per group; make it with `between`.

    d(a, b) is |a - b|^2, or |a - b| with the distance `norm`.

    Attributes:
        target: {"img": (P_img,), "txt": (P_txt,)}.
        lengths: d(theta_0, target), a scalar for each group that is not empty.
        merge_branches: one ratio (num_img + num_txt) / (den_img + den_txt) for both groups together
            (LoRS on COCO).
        distance: d.
    """

    target: Theta
    lengths: dict[str, Tensor]
    merge_branches: bool
    distance: Distance

    @staticmethod
    def between(
        theta0: Theta,
        target: Theta,
        *,
        merge_branches: bool = False,
        distance: Distance = "squared",
    ) -> Segment:
        """Measure a segment and check it once, so that `loss` needs no synchronisation with the
        device.

        Raises:
            ValueError: the expert did not move in a group (with `merge_branches` in both), so that
                the ratio has no meaning.
        """
        groups = [group for group in GROUPS if target[group].numel() > 0]
        lengths = _distances(theta0, target, groups, distance)
        values = dict(zip(groups, torch.stack(list(lengths.values())).tolist(), strict=True))
        checked = {"img and txt": sum(values.values())} if merge_branches else values
        still = [group for group, value in checked.items() if not 0.0 < value < math.inf]
        if still:
            raise ValueError(
                "the expert's parameters do not move, or are not finite, between start and "
                f"target in {', '.join(still)}; "
                f"received lengths {values}; allowed are segments with a positive finite "
                "length; check lr_img and lr_txt of train_experts"
            )
        return Segment(target, lengths, merge_branches, distance)

    def loss(self, theta: Theta) -> Tensor:
        """Return the matching loss of a student's end, sum over groups of d(theta, target) /
        d(theta_0, target), a scalar.
        """
        if not self.merge_branches:
            return _sum(self.ratios(theta))
        found = _distances(theta, self.target, self.lengths, self.distance)
        return _sum(found) / _sum(self.lengths)

    def ratios(self, theta: Theta) -> dict[str, Tensor]:
        """Return d(theta, target) / d(theta_0, target) of each group that is not empty. It is 0 for
        a group that stands still in the expert.
        """
        found = _distances(theta, self.target, self.lengths, self.distance)
        for group, length in self.lengths.items():
            # A group stands still with `merge_branches` alone, where no ratio is part of the loss
            found[group] = found[group] / torch.where(length > 0.0, length, math.inf)
        return found


def _distances(a: Theta, b: Theta, groups: Iterable[str], distance: Distance) -> dict[str, Tensor]:
    if distance == "norm":
        return {group: (a[group] - b[group]).norm() for group in groups}
    return {group: (a[group] - b[group]).square().sum() for group in groups}


def _sum(scalars: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(scalars.values())).sum()


def draw_snapshot(buffer: Buffer, config: MatchingConfig, draw: torch.Generator) -> tuple[int, int]:
    """Return a random expert, and the epoch of the snapshot at which the student starts."""
    expert = int(torch.randint(buffer.num_experts, (1,), generator=draw))
    return expert, int(torch.randint(config.max_start_epoch, (1,), generator=draw))


def segment_goals(
    flat: FlatModel, buffer: Buffer, config: MatchingConfig
) -> Callable[[int, torch.Generator], Goal]:
    """Return what draws the goal of an iteration: theta*_s -> theta*_{s + expert_epochs}, of a
    random expert and start s.

    The function that it returns raises ValueError where the expert did not move on the segment, or
    was not trained that far.

    Args:
        flat: knows the layers of the vectors.
    """
    trajectories = Trajectories(flat, buffer, config)

    def goal(iteration: int, draw: torch.Generator) -> Goal:
        expert, starts = trajectories.draw_start(iteration, draw)
        ends = {group: start + config.expert_epochs for group, start in starts.items()}
        theta0 = trajectories.at(iteration, expert, starts)
        segment = Segment.between(
            theta0,
            trajectories.at(iteration, expert, ends),
            merge_branches=config.merge_branches,
            distance=config.distance,
        )

        def terms(theta: Theta) -> dict[str, float]:
            ratios = segment.ratios(theta)
            return {f"loss_{group}": float(ratios.get(group, 0.0)) for group in GROUPS}

        return Goal(theta0, segment.loss, terms)

    return goal
