"""k-center covers the pairs by farthest-first traversal (Gonzalez, 1985; Sener and Savarese, ICLR
2018).

It begins with a random pair. Each next pair is the farthest from its nearest chosen pair, in the
space of pair features. The largest distance of any pair to a chosen one is at most twice the
optimum. Cost: O(N M d), with one running vector of distances.
"""

from __future__ import annotations

import torch

from tasks.core.foundations.section import NoOptions as Config
from tasks.core.selection.pool import Pool, Selection, farthest_first


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return the first `num_pairs` pairs of the traversal; the first is random."""
    return pool.select(farthest_first(pool.pair_features, num_pairs, generator))
