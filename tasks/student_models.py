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
from tasks.models import Place, load_encoder, load_encoder_of
from tasks.settings.steps import Network
from tasks.store.artifacts import Ref

BATCH_SIZE = 64  # images that the frozen encoder sees at once


def load_student_encoder(network: Network, start: Ref, device: torch.device) -> ImageEncoder:
    """Return the encoder of the student, behind a resize when it takes images of another size."""
    return at_size(load_encoder(network, start, device), network.input_size)


def open_pairs(
    network: Network, start: Ref, pairs: Ref, device: torch.device
) -> tuple[PairSet, torch.Tensor | None]:
    """Return a stored set as the student with `network` sees it, and its features.

    Features (M, F) lie on `device`; they are None when the encoder is trained. Nobody may change
    either. A further student sees the set as `transfer` brings it.
    """
    stored = Place(pairs.digest, pairs.folder)
    encoder = Place(start.digest, start.folder, network.image_encoder)
    is_frozen = network.model.is_encoder_frozen
    return _open_pairs(stored, encoder, device, is_frozen, network.is_further, network.input_size)


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
