"""Computes the contrastive loss between image and text embeddings, InfoNCE (METHOD 2).

Experts are trained with it. Losses that students may have instead: `student_losses.py`.
Shape suffixes: B pairs of a batch, D dimensions of the shared space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

TAU = 0.07


def logits(img_BD: Tensor, txt_BD: Tensor, tau: float) -> Tensor:
    """Return z (B, B): cosine similarity over tau of L2-normalised (B, D) embeddings, rows are
    images.
    """
    return img_BD @ txt_BD.T / tau


def both_directions(img_BD: Tensor, txt_BD: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of finding the text of each image, CE(z, diag), and the image of
    each text, CE(z^T, diag). Their mean is InfoNCE.
    """
    z_BB = logits(img_BD, txt_BD, tau)
    own_B = torch.arange(len(z_BB), device=z_BB.device)
    return functional.cross_entropy(z_BB, own_B), functional.cross_entropy(z_BB.T, own_B)


def info_nce(
    img_BD: Tensor,
    txt_BD: Tensor,
    *,
    tau: float = TAU,
    include_positive: bool = True,
    log_weights: Tensor | None = None,
) -> Tensor:
    """Return the symmetric InfoNCE loss, 1/2 [CE(z, diag) + CE(z^T, diag)].

    Args:
        img_BD, txt_BD: L2-normalised embeddings; row i of both is pair i.
        tau: temperature.
        include_positive: keep the pair itself in the denominator. False is the formula on the
            slides of Wu et al., 2024, called `info_nce_without_positive` in a stored set.
        log_weights: (B,), see `_weighted`; None: every pair counts alike.

    Raises:
        ValueError: a single pair without `include_positive`, which has no denominator.
    """
    if include_positive and log_weights is None:
        i2t, t2i = both_directions(img_BD, txt_BD, tau)
        return 0.5 * (i2t + t2i)
    z_BB = logits(img_BD, txt_BD, tau)
    if include_positive:
        assert log_weights is not None
        return _weighted(z_BB, z_BB, log_weights)
    if len(z_BB) < 2:
        raise ValueError(
            f"include_positive: false needs at least 2 pairs in a batch, received {len(z_BB)}; "
            "raise the mini-batch size"
        )
    # -log(exp(z_ii) / sum_{j != i} exp(z_ij)): the diagonal leaves the denominator
    is_positive_BB = torch.eye(len(z_BB), dtype=torch.bool, device=z_BB.device)
    negatives_BB = z_BB.masked_fill(is_positive_BB, -torch.inf)
    if log_weights is not None:
        return _weighted(z_BB, negatives_BB, log_weights)
    both_B = negatives_BB.logsumexp(0) + negatives_BB.logsumexp(1)
    return 0.5 * (both_B - 2 * z_BB.diagonal()).mean()


def _weighted(z_BB: Tensor, others_BB: Tensor, log_weights_B: Tensor) -> Tensor:
    """Return InfoNCE in which a pair of weight w stands for w pairs: 1/2 mean_i w_i [log sum_j w_j
    exp(z_ij) - z_ii], and the same of z^T.

    Weights count relative to their mean in the batch, so that equal ones change nothing. The
    gradient is that of a batch which holds each pair w times.

    Args:
        others_BB: what is in the denominators: z, or z without its diagonal.
    """
    log_share_B = log_weights_B - log_weights_B.logsumexp(0) + math.log(len(z_BB))
    i2t_B = (others_BB + log_share_B).logsumexp(1)
    t2i_B = (others_BB.T + log_share_B).logsumexp(1)
    return 0.5 * (log_share_B.exp() * (i2t_B + t2i_B - 2 * z_BB.diagonal())).mean()
