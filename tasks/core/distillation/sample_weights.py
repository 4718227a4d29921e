"""Weighs pairs in the student's loss: rows of logarithms, which are learned like pixels, or stay as
k-means made them (METHOD 4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.distillation.matching_config import MatchingConfig, OuterConfig
from tasks.core.distillation.objective import Learnable, Objective
from tasks.core.training.pair_set import LOG_WEIGHTS


def weight_rows(
    config: OuterConfig, objective: Objective, begin: Tensor | None, num_images: int
) -> dict[str, Learnable]:
    """Return the rows that weigh pairs by their name, {} where all count alike.

    Args:
        begin: (num_images,) logarithms that they start from; None starts from equal weights.

    Raises:
        ValueError: the method has no place for weights.
    """
    if not isinstance(config, MatchingConfig) or config.weights == "none":
        return {}
    if not objective.takes_weights:
        raise ValueError(
            f"weights: received {config.weights!r} for a method whose students' loss takes none; "
            "allowed is none; change it in the method's options or in distill.matching"
        )
    lr = config.lr_weights if config.weights == "learned" else 0.0
    return {LOG_WEIGHTS: Learnable(torch.zeros(num_images) if begin is None else begin, lr)}
