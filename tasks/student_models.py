"""What evaluation opens beside `models.py`: encoders at another size, and sets as a student sees
them.
"""

from __future__ import annotations

import functools

import torch

from tasks.core.evaluation.transfer import at_size, transfer
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.precision import products
from tasks.core.training.pair_files import load_pairs
from tasks.core.training.pair_set import PairSet
from tasks.models import Place, is_encoder_frozen, load_encoder, load_encoder_of
from tasks.settings.params import Params
from tasks.store.artifacts import Ref

BATCH_SIZE = 64  # images that the frozen encoder sees at once


def load_student_encoder(params: Params, start: Ref, device: torch.device) -> ImageEncoder:
    """Return the encoder of the student, behind a resize when it takes images of another size."""
    return at_size(load_encoder(params, start, device), params.input_size)


def open_pairs(
    params: Params, start: Ref, pairs: Ref, device: torch.device
) -> tuple[PairSet, torch.Tensor | None]:
    """Return a stored set as the student of `params` sees it, and its features.

    Features (M, F) lie on `device`; they are None when the encoder is trained. Nobody may change
    either. A further student sees the set as `transfer` brings it.
    """
    stored = Place(pairs.digest, pairs.folder)
    encoder = Place(start.digest, start.folder, params.image_encoder)
    is_transferred = params.student is not None
    return _open_pairs(
        stored, encoder, device, is_encoder_frozen(params), is_transferred, params.input_size
    )


@functools.lru_cache(maxsize=1)
def _open_pairs(
    pairs: Place,
    start: Place,
    device: torch.device,
    is_frozen: bool,
    is_transferred: bool,
    input_size: int | None,
) -> tuple[PairSet, torch.Tensor | None]:
    encoder = at_size(load_encoder_of(start, device), input_size)
    stored = load_pairs(pairs.folder)
    if is_transferred:
        stored = transfer(stored, encoder, input_size)
    if not is_frozen:
        return stored, None
    with torch.no_grad(), products("float32"):
        parts = [
            encoder.module(part.contiguous(memory_format=torch.channels_last).to(device))
            for part in stored.images.split(BATCH_SIZE)
        ]
    return stored, torch.cat(parts)
