"""Draws random real pairs up to the bytes of a synthetic set: what the same storage holds of real
data.

`random_equal_bytes-100` takes the bytes of 100 synthetic pairs in 8 bits. Pictures count as JPEG,
and bring all their captions. It is a baseline beside `random`, which has the same number of pairs.
"""

from __future__ import annotations

import torch

from tasks.core.foundations.section import NoOptions as Config
from tasks.core.selection.pool import Pool, Selection


def select(config: Config, pool: Pool, num_pairs: int, generator: torch.Generator) -> Selection:
    """Return pictures in random order with all their captions, up to the first that does not fit.

    Raises:
        ValueError: the bytes do not hold two pictures.
    """
    real = pool.real
    assert real is not None, "the stage gives it to every method"
    budget, used = num_pairs * real.synthetic_bytes, 0
    images, captions, owners = list[int](), list[int](), list[int]()
    for image in torch.randperm(pool.num_images, generator=generator).tolist():
        own = real.captions_of(image)
        used += real.bytes_of(image, own)
        if used > budget:
            break
        # The place that the image gets in `images`, before it is appended
        owners += [len(images)] * len(own)
        images.append(image)
        captions += own
    if len(images) < 2:
        raise ValueError(
            f"random_equal_bytes: received {num_pairs} pairs of {real.synthetic_bytes} bytes, "
            "which hold fewer than two real pictures; raise `budgets` in params.yaml"
        )
    return Selection(torch.tensor(images), torch.tensor(captions), torch.tensor(owners))
