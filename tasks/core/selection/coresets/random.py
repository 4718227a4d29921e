"""Random draws images uniformly, with the caption that the pool has for each. It is the baseline of
every table.
"""

from __future__ import annotations

import torch

from tasks.core.foundations.section import NoOptions as Config
from tasks.core.selection.pool import Pool, Selection


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return `num_pairs` random pairs, without repetition."""
    return pool.select(torch.randperm(pool.num_images, generator=generator)[:num_pairs])
