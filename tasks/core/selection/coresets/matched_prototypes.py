"""Keeps the real pairs nearest to matched prototypes (after PDS without its generator: ICLR 2026,
arXiv 2602.19756).

Images and captions are clustered separately, each into `num_pairs` clusters. Clusters of images are
matched with clusters of captions, one to one, so that the matched clusters share as many pairs as
possible. From each match, the pair nearest to both centres is kept.
"""

from __future__ import annotations

import torch

from tasks.core.foundations.section import NoOptions as Config
from tasks.core.selection.assignment import assign
from tasks.core.selection.k_means import k_means, nearest
from tasks.core.selection.pool import Pool, Selection


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return the pairs; the first centroids are random."""
    images, texts = pool.image_features, pool.text_features
    image_centres = k_means(images, num_pairs, generator)
    text_centres = k_means(texts, num_pairs, generator)
    # shared[i, j] is the number of pairs in image cluster i and text cluster j
    both = nearest(images, image_centres) * num_pairs + nearest(texts, text_centres)
    shared = torch.bincount(both, minlength=num_pairs**2).view(num_pairs, num_pairs)
    partner = assign(-shared.double())
    # Matches that share many pairs choose first. A match that shares none takes the nearest pair
    # that is left.
    counts = shared[torch.arange(num_pairs), partner]
    is_free = torch.ones(pool.num_images, dtype=torch.bool)
    chosen = []
    for row in counts.argsort(descending=True, stable=True).tolist():
        distances = (images - image_centres[row]).square().sum(1)
        distances += (texts - text_centres[partner[row]]).square().sum(1)
        chosen.append(int(distances.masked_fill(~is_free, torch.inf).argmin()))
        is_free[chosen[-1]] = False
    return pool.select(torch.tensor(chosen))
