"""Keeps the cross-covariance of images and captions, greedily (after ClipCov: Joshi et al.,
AISTATS 2024, arXiv 2403.12267).

By the argument of the paper, linear heads learn only the cross-covariance of the pairs. So each
choice brings the cross-covariance of the chosen pairs closest to that of all pairs, in the
Frobenius norm. The paper adds terms of latent classes. Captions have no classes, so these terms are
left out. Cost: O(N M d).
"""

from __future__ import annotations

import torch

from tasks.core.foundations.section import NoOptions as Config
from tasks.core.selection.pool import Pool, Selection, herd_products


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return the pairs; nothing is random."""
    # Both are centred at the mean of all pairs, so that a mean outer product is a covariance
    images = pool.image_features - pool.image_features.mean(0)
    texts = pool.text_features - pool.text_features.mean(0)
    return pool.select(herd_products(images, texts, num_pairs))
