"""Contrastive losses against a soft similarity (LoRS; METHOD 6)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tasks.core.training.losses import TAU, logits
from tasks.core.training.pair_set import SOFT_LOSSES


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
