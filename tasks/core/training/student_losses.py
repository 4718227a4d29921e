"""Lists the losses that students are trained with, while a set is distilled and when a stored set
is evaluated.

The choices of `loss` in params.yaml, the checks of a stored set and the dispatch come from here. A
further loss is a function and an entry. Experts are trained with `losses.info_nce` in any case.

Shape suffixes: B pairs of a batch, D dimensions of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tasks.core.training.losses import TAU, info_nce, logits

SoftLoss = Callable[[Tensor, Tensor], Tensor]


def ence(z_BB: Tensor, similarity_BB: Tensor) -> Tensor:
    """Return the soft cross-entropy, -1/2 mean_i sum_j S_ij log softmax(z)_ij in both directions
    (eNCE of LoRS, METHOD 6).

    Args:
        z_BB: `logits`.
        similarity_BB: S; entries may be negative, and the loss is then unbounded below.
    """
    i2t_B = (similarity_BB * z_BB.log_softmax(1)).sum(1)
    t2i_B = (similarity_BB * z_BB.log_softmax(0)).sum(0)
    return -0.5 * (i2t_B + t2i_B).mean()


def bce(z_BB: Tensor, similarity_BB: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of sigmoid(z) against S; arguments as for `ence`."""
    return binary_cross_entropy_with_logits(z_BB, similarity_BB, reduction="none").mean()


def wbce(z_BB: Tensor, similarity_BB: Tensor) -> Tensor:
    """Return the mean of `bce` over S > 0.5 and that over S <= 0.5, weighted equally."""
    terms_BB = binary_cross_entropy_with_logits(z_BB, similarity_BB, reduction="none")
    is_positive_BB = (similarity_BB > 0.5).to(terms_BB.dtype)
    # Few of the B^2 entries are positive, and in a plain mean they would hardly count
    means = []
    for mask_BB in (is_positive_BB, 1.0 - is_positive_BB):
        # A batch may have no pair of one kind: its mean is then 0.
        means.append((terms_BB * mask_BB).sum() / mask_BB.sum().clamp(min=1.0))
    return 0.5 * (means[0] + means[1])


# Losses of the pairs alone, (image embeddings, text embeddings, tau=, log_weights=) -> scalar.
HARD: dict[str, Callable[..., Tensor]] = {
    "info_nce": info_nce,
    "info_nce_without_positive": partial(info_nce, include_positive=False),
}
# Losses against a soft similarity S of every image with every text (LoRS, arXiv 2406.03793).
SOFT: dict[str, SoftLoss] = {"ence": ence, "bce": bce, "wbce": wbce}


def soft_contrastive(
    name: str, img_BD: Tensor, txt_BD: Tensor, similarity_BB: Tensor, *, tau: float = TAU
) -> Tensor:
    """Return a loss against a soft similarity, a scalar.

    Args:
        name: one of `SOFT`.
        img_BD, txt_BD: L2-normalised embeddings.
        similarity_BB: S, rows are images.
        tau: temperature.
    """
    return SOFT[name](logits(img_BD, txt_BD, tau), similarity_BB)
