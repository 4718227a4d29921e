"""Contrastive losses between image and text embeddings, hard (InfoNCE) and with a soft similarity
(LoRS). METHOD 2 and 6.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

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
