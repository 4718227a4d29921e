"""Checks whether the embeddings of a network say something about its inputs.

Embeddings have to be finite, those of different inputs have to differ, and many of them have to
span more than a few directions. A network with missing or zeroed weights fails one of these checks.
Without them the pipeline would still end with a table of recalls. Callers: `embed_captions` for
captions, `starts` for image encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.encoders import ImageEncoder, encode_images

SAMPLE = 512  # rows that are compared with each other
# Rows at a smaller relative distance count as equal: the batch that an input is in changes float32
# results by some 1e-6
_SAME = 1e-5
# From so many different rows on they need this rank; smaller shares of the largest singular value
# count as zero
_MANY, _LEAST_RANK, _RANK_TOLERANCE = 32, 4, 1e-4
_PROBES = 8  # random pictures that an image encoder is tried with


def check_informative(
    rows: Tensor, input_of: Callable[[int], Hashable], *, what: str, causes: str, where: str
) -> None:
    """Raise ValueError unless the embeddings (N, D) are finite and tell their inputs apart.

    In a sample of different inputs, there have to be at least a quarter as many different vectors,
    and at least two. All are not asked for: captions may differ in capitals or unknown words alone,
    which the encoder drops. From 32 different vectors on, their differences to the mean need rank
    4.

    Args:
        rows: (N, D) embeddings.
        input_of: the input of a row; equal inputs may share a vector.
        what: the network, for the message.
        causes: known causes, for the message.
        where: what to change, for the message.
    """
    bad = (~torch.isfinite(rows).all(1)).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"{what} gave non-finite embeddings for {len(bad)} of {len(rows)} inputs, first "
            f"number {int(bad[0])}; all must be finite; {where}"
        )
    # Spread over all rows, because neighbours may be captions of one image. Reversed, so that the
    # first row of each input stays.
    step = max(1, len(rows) // SAMPLE)
    first = {input_of(row): row for row in reversed(range(0, len(rows), step))}
    chosen = rows[sorted(first.values())].double()
    own = chosen[_is_first(chosen)]
    least = max(2, len(chosen) // 4)
    if len(chosen) > 1 and len(own) < least:
        raise ValueError(
            f"{what} gave {len(own)} different vectors for {len(chosen)} different inputs, needed "
            f"are at least {least}; known causes: {causes}; {where}"
        )
    if len(own) < _MANY:
        return
    # Without the mean: a common offset is a direction that tells nothing apart
    sizes = torch.linalg.svdvals(own - own.mean(0))
    rank, needed = int((sizes > _RANK_TOLERANCE * sizes[0]).sum()), min(_LEAST_RANK, own.shape[1])
    if rank < needed:
        raise ValueError(
            f"{what} gave vectors of {rank} directions for {len(chosen)} different inputs, needed "
            f"are at least {needed}; known causes: {causes}; {where}"
        )


def check_weights(module: nn.Module, *, what: str, where: str) -> None:
    """Raise ValueError when a weight is not finite, or when all matrices and kernels are zero.

    Vectors do not count: the scale of a normalisation is 1 in an untrained network too.
    """
    weights = {
        name: value for name, value in module.state_dict().items() if value.is_floating_point()
    }
    bad = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise ValueError(
            f"{what} has non-finite weights in {len(bad)} of {len(weights)} tensors, first "
            f"{bad[0]}; all must be finite; {where}"
        )
    matrices = [value for value in weights.values() if value.ndim > 1]
    if matrices and not any(bool(value.any()) for value in matrices):
        raise ValueError(f"all weights of {what} are zero; needed is a trained network; {where}")


def check_on_noise(
    encoder: ImageEncoder,
    image_size: int,
    *,
    device: torch.device | str,
    what: str,
    causes: str,
    where: str,
) -> None:
    """Raise ValueError unless an image encoder tells a few random pictures apart."""
    shape = (_PROBES, image_size, image_size, 3)
    # No features of an encoder that will be trained are stored, so it is tried on noise
    images = torch.randint(0, 256, shape, generator=make_generator(0, "noise")).to(torch.uint8)
    features = encode_images(encoder, images.numpy(), device=device)
    check_informative(features, lambda row: row, what=what, causes=causes, where=where)


def _is_first(rows: Tensor) -> Tensor:
    """Return (N,) bool, whether no earlier row is equal up to rounding."""
    # Distances by matrix products round by more than the distances in question
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    is_same = distances <= _SAME * rows.norm(dim=1)
    return ~is_same.tril(-1).any(1)
