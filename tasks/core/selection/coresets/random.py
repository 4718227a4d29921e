"""Uniform over images, then the pool's caption of each (itself uniform over the image's captions):
the baseline of every table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tasks.core.foundations.section import Section
from tasks.core.selection.pool import Pool, Selection


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """No options."""


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return `num_pairs` random pairs, without repetition."""
    return pool.select(torch.randperm(pool.num_images, generator=generator)[:num_pairs])
