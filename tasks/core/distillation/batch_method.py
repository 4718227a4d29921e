"""Holds what methods share that compare a mini-batch of synthetic pairs with one of real pairs,
under networks of experts and without students.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.distillation.matching_config import OuterConfig, check_outer
from tasks.core.distillation.outer_iterations import Problem
from tasks.core.foundations.section import BatchSize, Count
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.student_step import Rows
from tasks.core.networks.functional import Theta
from tasks.core.training.split_pairs import SplitPairs


@dataclass(frozen=True, kw_only=True)
class BatchConfig(OuterConfig):
    """Options.

    Attributes:
        expert_epochs: epochs of experts that are read, from epoch 0 on.
        mini_batch_size: synthetic pairs of an iteration; larger than the set means the whole set.
    """

    expert_epochs: Count
    mini_batch_size: BatchSize

    @property
    def needs_experts(self) -> bool:
        """See `OuterConfig`: the networks are made of experts."""
        return True


def check_batches(
    config: BatchConfig, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Raise ValueError when experts are too short or a budget has no outer step size.

    A trained encoder takes one view of the whole mini-batch: others are refused.
    """
    check_outer(config, budgets, where=where)
    if config.expert_epochs > num_epochs:
        raise ValueError(
            f"{where}.expert_epochs: received {config.expert_epochs} with experts of {num_epochs} "
            f"epochs (train_experts.num_epochs); allowed is 1 to {num_epochs}; raise that or lower "
            "it"
        )
    is_encoder_trained = trainable in ("full", "lora")
    if config.micro_batch is not None and is_encoder_trained:
        raise ValueError(
            f"{where}.micro_batch: received {config.micro_batch} with trainable {trainable!r}; the "
            "distance is of the whole mini-batch, which a trained encoder takes at once; allowed "
            f"is null, or a number with a frozen encoder (heads, text_head); change "
            f"{where}.micro_batch or model.trainable, and lower mini_batch_size for less memory"
        )
    if config.num_views > 1 and is_encoder_trained:
        raise ValueError(
            f"{where}.num_views: received {config.num_views} with trainable {trainable!r}; allowed "
            f"is 1, or more with a frozen encoder (heads, text_head); change {where}.num_views or "
            "model.trainable"
        )


def embed_batches(
    problem: Problem,
    real: SplitPairs,
    theta: Theta,
    rows: Rows,
    *,
    sizes: tuple[int, int],
    iteration: int,
    draw: torch.Generator,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the normalised embeddings of images and texts (B, d) of both mini-batches, those of
    the real one without a graph.

    Args:
        real: the real pairs.
        theta: the network.
        rows: of the synthetic set.
        sizes: of the synthetic mini-batch and of the real one; larger than there are means all.
        draw: chooses both.
    """
    images = rows["features"] if "features" in rows else rows["images"]
    order = torch.randperm(len(images), generator=draw)[: sizes[0]]
    chosen = order.to(images.device)
    synthetic = problem.flat.call(theta, images[chosen], rows["text_embeds"][chosen])
    places = torch.randperm(real.num_pairs, generator=draw)[: sizes[1]]
    augment = make_generator(problem.seed, "augment", iteration)
    with torch.no_grad():
        return synthetic, problem.flat.call(theta, *real.take(places, draw, augment))
