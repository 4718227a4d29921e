"""Contrastive losses between image and text embeddings, hard (InfoNCE) and with a soft similarity
(LoRS). METHOD 2 and 6.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tasks.core.records import SOFT_LOSSES

TAU = 0.07


def logits(img: Tensor, txt: Tensor, tau: float = TAU) -> Tensor:
    """Return z (B, B): cosine similarity over tau of L2-normalised (B, d) embeddings, rows are
    images.
    """
    return img @ txt.T / tau


def info_nce(
    img: Tensor, txt: Tensor, *, tau: float = TAU, include_positive: bool = True
) -> Tensor:
    """Return the symmetric InfoNCE loss, 1/2 [CE(z, diag) + CE(z^T, diag)].

    `include_positive=False` leaves the positive out of the denominator (the formula of the slides
    of Wu et al., 2024); it needs at least two pairs, and is called `info_nce_without_positive` in a
    stored set.
    """
    z = logits(img, txt, tau)
    if include_positive:
        target = torch.arange(len(z), device=z.device)
        return 0.5 * (functional.cross_entropy(z, target) + functional.cross_entropy(z.T, target))
    if len(z) < 2:
        raise ValueError(
            f"include_positive: false needs at least 2 pairs in a batch, received {len(z)}; "
            "raise the mini-batch size"
        )
    negatives = z.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return 0.5 * (negatives.logsumexp(0) + negatives.logsumexp(1) - 2 * z.diagonal()).mean()


def soft_contrastive(
    name: str, img: Tensor, txt: Tensor, similarity: Tensor, *, tau: float = TAU
) -> Tensor:
    """Return a loss against a soft similarity (B, B) (LoRS, arXiv 2406.03793).

    Args:
        name: `ence` (soft cross-entropy), `bce`, or `wbce` (means over S > .5 and S <= .5, weighted
            equally).
    """
    z = logits(img, txt, tau)
    if name == "ence":
        return (
            -0.5
            * (
                (similarity * z.log_softmax(1)).sum(1) + (similarity * z.log_softmax(0)).sum(0)
            ).mean()
        )
    if name not in SOFT_LOSSES:
        raise ValueError(
            f"unknown loss {name!r}; available: info_nce, {', '.join(SOFT_LOSSES)}; change "
            "`loss` in the method's options"
        )
    terms = functional.binary_cross_entropy_with_logits(z, similarity, reduction="none")
    if name == "bce":
        return terms.mean()
    is_positive = (similarity > 0.5).to(terms.dtype)
    means = [
        (terms * mask).sum() / mask.sum().clamp(min=1.0)
        for mask in (is_positive, 1.0 - is_positive)
    ]
    return 0.5 * (means[0] + means[1])
