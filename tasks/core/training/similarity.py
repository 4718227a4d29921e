"""Computes the soft similarity of LoRS (arXiv 2406.03793; METHOD 6), and the loss with which a
student is trained on a stored set.

S = diag(a) + (alpha / r) L R^T takes 2r + 1 floats a pair. It starts as the identity: a = 1, R = 0,
and L ~ N(0, 1), which gives R a gradient. A mini-batch takes its rows of a, L and R. They make the
block of S that belongs to its pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.training.epoch import Loss
from tasks.core.training.pair_set import DIAGONAL, LEFT, RIGHT, PairSet
from tasks.core.training.student_losses import HARD, soft_contrastive


def initial_rows(num_pairs: int, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return rows that make the identity: `sim_diagonal` (M,), `sim_left` and `sim_right` (M, r).
    `sim_left` is random from `generator`.
    """
    # With both factors at zero, neither would ever get a gradient
    left = torch.randn(num_pairs, rank, generator=generator)
    return {DIAGONAL: torch.ones(num_pairs), LEFT: left, RIGHT: torch.zeros(num_pairs, rank)}


def similarity_of(rows: dict[str, Tensor], alpha: float) -> Tensor:
    """Return S (B, B) for the rows of a mini-batch, differentiable. Rows with other names than the
    three are ignored.
    """
    left, right = rows[LEFT], rows[RIGHT]
    return torch.diag(rows[DIAGONAL]) + (alpha / left.shape[1]) * left @ right.T


def set_loss(pairs: PairSet, tau: float) -> Loss:
    """Return the loss that a student is trained with on a stored set.

    The loss takes L2-normalised image and text embeddings (B, d), and their rows (B,) in the set.
    The similarity is detached, and follows the device and dtype of the embeddings.

    Args:
        pairs: the set; it names its loss and holds its similarity.
        tau: temperature.
    """
    if pairs.loss in HARD:
        return _hard_loss(pairs, tau)
    soft = pairs.similarity
    assert soft is not None, "a PairSet with a soft loss has a similarity"
    stored = soft.rows

    def loss(img: Tensor, txt: Tensor, rows: Tensor) -> Tensor:
        place = rows.to(img.device, non_blocking=True)
        taken = {}
        for name, value in stored.items():
            # Kept where it was moved to, so that only the first batch moves it
            stored[name] = value.detach().to(img)
            taken[name] = stored[name][place]
        return soft_contrastive(pairs.loss, img, txt, similarity_of(taken, soft.alpha), tau=tau)

    return loss


def _hard_loss(pairs: PairSet, tau: float) -> Loss:
    hard, weights = HARD[pairs.loss], pairs.log_weights
    if weights is None:
        return lambda img, txt, rows: hard(img, txt, tau=tau)
    return lambda img, txt, rows: hard(img, txt, tau=tau, log_weights=weights[rows].to(img))
