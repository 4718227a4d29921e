"""Keeps the cross-covariance of images and captions, greedily (after ClipCov: Joshi et al.,
AISTATS 2024, arXiv 2403.12267).

The cross-covariance of all pairs is what linear heads learn of them. The next pair is the one with
which that of the chosen, over their number, comes closest to it in the Frobenius norm. The paper
adds terms of latent classes, which captions do not have; they are left out. Cost: O(N M d).
"""

from __future__ import annotations

import torch

from tasks.core.foundations.section import NoOptions as Config
from tasks.core.selection.pool import Pool, Selection, herd_products


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return the pairs; nothing is random."""
    images = pool.image_features - pool.image_features.mean(0)
    texts = pool.text_features - pool.text_features.mean(0)
    return pool.select(herd_products(images, texts, num_pairs))
