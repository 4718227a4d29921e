"""The goal of trajectory matching (METHOD 4): a random segment of a random expert, which the
student has to follow.
"""

from __future__ import annotations

import torch

from tasks.core.experts import Buffer
from tasks.core.functional import GROUPS, Theta
from tasks.core.matching import Segment
from tasks.core.matching_config import MatchingConfig
from tasks.core.objective import Goal


def draw_start(
    buffer: Buffer, config: MatchingConfig, iteration: int, draw: torch.Generator
) -> tuple[int, dict[str, int]]:
    """Return a random expert and the start epoch of each group, {"img", "txt"}."""
    expert = int(torch.randint(buffer.num_experts, (1,), generator=draw))
    limit = config.start_epochs(iteration)
    epoch = int(torch.randint(limit, (1,), generator=draw))
    text_epoch = (
        epoch if config.are_start_epochs_shared else int(torch.randint(limit, (1,), generator=draw))
    )
    return expert, {"img": epoch, "txt": text_epoch}


def draw_segment(
    buffer: Buffer, config: MatchingConfig, iteration: int, draw: torch.Generator
) -> Goal:
    """Return the goal theta*_s -> theta*_{s + expert_epochs} of an iteration.

    Raises:
        ValueError: the expert did not move on the segment, or was not trained that far.
    """
    expert, epochs = draw_start(buffer, config, iteration, draw)
    start = snapshots(buffer, expert, epochs)
    target = snapshots(
        buffer, expert, {group: epoch + config.expert_epochs for group, epoch in epochs.items()}
    )
    segment = Segment.between(start, target, merge_branches=config.merge_branches)

    def terms(theta: Theta) -> dict[str, float]:
        ratios = segment.ratios(theta)
        return {f"loss_{group}": float(ratios.get(group, 0.0)) for group in GROUPS}

    return Goal(start, segment.loss, terms)


def snapshots(buffer: Buffer, expert: int, epochs: dict[str, int]) -> Theta:
    """Return theta* of an expert, each group at its own epoch."""
    return {group: buffer.snapshot(expert, epochs[group])[group] for group in GROUPS}
