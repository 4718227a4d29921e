"""Forgetting keeps the pairs that training forgets least (Toneva et al., ICLR 2019).

A pair is correct when it has rank 1 in both directions within its batch. Over `num_epochs` of
training, the changes from correct to incorrect are counted. A pair that never was correct counts as
infinite. The pairs with the lowest counts are kept, ties in random order (METHOD 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from tasks.core.foundations.section import Range, Section
from tasks.core.selection.pool import Pool, Selection, count_forgetting

OnBatch = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Options.

    Attributes:
        num_epochs: epochs over which events are counted.
    """

    num_epochs: Annotated[int, Range(ge=2)]


def prepare(
    config: Config, num_images: int, train: Callable[[int, OnBatch], None]
) -> dict[str, Tensor]:
    """Return {"counts": (N,) float32}, the forgetting events of each pair.

    Args:
        num_images: N.
        train: `train(num_epochs, on_batch)` trains a fresh model. For each batch it calls
            `on_batch(rows, image embeddings, text embeddings)`.
    """
    history = torch.zeros(config.num_epochs, num_images, dtype=torch.bool)
    # A row of the history is a visit of a pair, not an epoch: a batch of one pair is left out
    visits = torch.zeros(num_images, dtype=torch.long)

    def on_batch(rows: Tensor, img: Tensor, txt: Tensor) -> None:
        scores = img @ txt.T
        own = torch.arange(len(rows), device=scores.device)
        is_correct = (scores.argmax(1) == own) & (scores.argmax(0) == own)
        history[visits[rows], rows] = is_correct.cpu()
        visits[rows] += 1

    train(config.num_epochs, on_batch)
    return {"counts": count_forgetting(history)}


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return the pairs with the lowest counts."""
    # Shuffled first and sorted stably, so that ties stay in random order
    order = torch.randperm(pool.num_images, generator=generator)
    counts = pool.shared["counts"][order]
    return pool.select(order[counts.argsort(stable=True)[:num_pairs]])
