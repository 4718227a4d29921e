"""Herding chooses pairs greedily, so that the mean of their features stays closest to the mean of
all (Welling, ICML 2009).

Published code for this task takes the farthest sample and so moves away from the mean. This code
moves towards it. Cost: O(N M d).
"""

from __future__ import annotations

import torch

from tasks.core.foundations.section import NoOptions as Config
from tasks.core.selection.pool import Pool, Selection, herd


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return the herded pairs; nothing is random."""
    return pool.select(herd(pool.pair_features, num_pairs))
