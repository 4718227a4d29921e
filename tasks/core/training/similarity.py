"""The learnable soft similarity of LoRS (arXiv 2406.03793; METHOD 6), and the loss with which a
stored set trains a student.

S = diag(a) + (alpha / r) L R^T in 2r + 1 floats a pair. It starts as the identity: a = 1, R = 0,
and L ~ N(0, 1), which gives R a gradient. A mini-batch takes its rows of a, L and R, hence its
block of S.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.training.epoch import Loss
from tasks.core.training.pair_set import PairSet, Similarity
from tasks.core.training.student_losses import HARD, soft_contrastive

DIAGONAL, LEFT, RIGHT = "sim_diagonal", "sim_left", "sim_right"


def initial_rows(num_pairs: int, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the rows of an identity: `sim_diagonal` (M,), `sim_left` and `sim_right` (M, r)."""
    left = torch.randn(num_pairs, rank, generator=generator)
    return {DIAGONAL: torch.ones(num_pairs), LEFT: left, RIGHT: torch.zeros(num_pairs, rank)}


def similarity_of(rows: dict[str, Tensor], alpha: float) -> Tensor:
    """Return S (B, B) of the rows of a mini-batch, differentiable; other rows than the three are
    ignored.
    """
    left, right = rows[LEFT], rows[RIGHT]
    return torch.diag(rows[DIAGONAL]) + (alpha / left.shape[1]) * left @ right.T


def learned_similarity(rows: dict[str, Tensor], alpha: float) -> Similarity:
    """Return the record of learned rows, for a `PairSet`."""
    return Similarity(rows[DIAGONAL], rows[LEFT], rows[RIGHT], alpha)


def set_loss(pairs: PairSet, tau: float) -> Loss:
    """Return the loss that a stored set asks a student to be trained with.

    The loss takes L2-normalised image and text embeddings (B, d) and the rows (B,) of the set that
    they belong to; the similarity is detached and follows the device and dtype of the embeddings.

    Args:
        tau: temperature.
    """
    if pairs.loss in HARD:
        hard = HARD[pairs.loss]
        return lambda img, txt, rows: hard(img, txt, tau=tau)
    assert pairs.similarity is not None, "a PairSet with a soft loss has a similarity"
    name, alpha = pairs.loss, pairs.similarity.alpha
    stored = {
        DIAGONAL: pairs.similarity.diagonal,
        LEFT: pairs.similarity.left,
        RIGHT: pairs.similarity.right,
    }
    stored = {key: value.detach() for key, value in stored.items()}

    def loss(img: Tensor, txt: Tensor, rows: Tensor) -> Tensor:
        nonlocal stored
        stored = {key: value.to(img) for key, value in stored.items()}  # moves once
        taken = {
            key: value[rows.to(img.device, non_blocking=True)] for key, value in stored.items()
        }
        return soft_contrastive(name, img, txt, similarity_of(taken, alpha), tau=tau)

    return loss
