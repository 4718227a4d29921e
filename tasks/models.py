"""Between artifacts and core: the encoder of a start artifact, fresh dual encoders, and splits with
their features.

A process that trains many students opens each artifact once: what was loaded last is kept by the
artifact's digest.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tasks.artifacts import Ref
from tasks.core.dual_encoder import DualEncoder, build_dual_encoder
from tasks.core.encoders import ImageEncoder
from tasks.core.experts import Buffer
from tasks.core.functional import FlatModel
from tasks.core.precision import products
from tasks.core.records import PairSet, Split
from tasks.core.seeding import derive_seed
from tasks.core.storage import load_pairs, load_split
from tasks.core.tensor_files import load_tensors
from tasks.core.transfer import at_size, transfer
from tasks.params import Params, Plugin

ENCODER = "encoder.safetensors"


@dataclass(frozen=True)
class _Place:
    """Where an artifact lies; two are equal when their content is."""

    digest: str
    folder: Path = field(compare=False)
    plugin: Plugin | None = field(default=None, compare=False)


def is_encoder_frozen(params: Params) -> bool:
    """Whether image features are computed once (`heads`, `text_head`)."""
    return params.model.is_encoder_frozen


def load_encoder(params: Params, start: Ref, device: torch.device) -> ImageEncoder:
    """Return the shared image encoder on `device`; the pretrained file is not needed any more.

    It is the same module at every call: `new_model` copies it where it is trained, and nobody else
    may change it.
    """
    return at_size(
        _load_encoder(_Place(start.digest, start.folder, params.image_encoder), device),
        params.input_size,
    )


@functools.lru_cache(maxsize=2)
def _load_encoder(start: _Place, device: torch.device) -> ImageEncoder:
    assert start.plugin
    encoder: ImageEncoder = start.plugin.module.rebuild(
        start.plugin.config, load_tensors(start.folder / ENCODER)
    )
    encoder.module.to(device)
    return encoder


def new_model(
    params: Params, encoder: ImageEncoder, text_dim: int, *names: str | int
) -> DualEncoder:
    """Return a dual encoder with fresh projections, seeded by the profile's seed and `names`;
    `encoder` is copied where it is trained.
    """
    model = build_dual_encoder(
        encoder.module,
        out_dim=encoder.out_dim,
        text_dim=text_dim,
        trainable=params.model.trainable,
        embed_dim=params.model.embed_dim,
        dropout=params.model.dropout,
        seed=derive_seed(params.seed, *names),
        lora=params.model.lora,
    )
    return model.to(next(encoder.module.parameters()).device)


def open_split(params: Params, prepared: Ref, embeddings: Ref, start: Ref, split: str) -> Split:
    """Return a split; with the frozen encoder's features when there are any. Nobody may change its
    tensors.
    """
    features = _Place(start.digest, start.folder) if is_encoder_frozen(params) else None
    return _open_split(
        _Place(prepared.digest, prepared.folder),
        _Place(embeddings.digest, embeddings.folder),
        split,
        features,
    )


@functools.lru_cache(maxsize=6)
def _open_split(prepared: _Place, embeddings: _Place, split: str, features: _Place | None) -> Split:
    return load_split(
        prepared.folder, embeddings.folder, split, features.folder if features else None
    )


def load_buffer(flat: FlatModel, experts: list[Ref]) -> Buffer:
    """Return the stored trajectories of `experts` for the model of `flat`, which must be at its
    start.
    """
    return Buffer([ref.folder for ref in experts], flat.flatten(), device=flat.device)


def open_pairs(
    params: Params, start: Ref, pairs: Ref, device: torch.device
) -> tuple[PairSet, torch.Tensor | None]:
    """Return a stored set as the student of `params` sees it, and its features (M, F) on `device`
    when its encoder is frozen.

    Nobody may change them. A further student sees the set as `transfer` brings it.
    """
    places = (
        _Place(pairs.digest, pairs.folder),
        _Place(start.digest, start.folder, params.image_encoder),
    )
    return _open_pairs(
        *places, device, is_encoder_frozen(params), params.student is not None, params.input_size
    )


@functools.lru_cache(maxsize=1)
def _open_pairs(
    pairs: _Place,
    start: _Place,
    device: torch.device,
    is_frozen: bool,
    is_transferred: bool,
    input_size: int | None,
) -> tuple[PairSet, torch.Tensor | None]:
    encoder, stored = at_size(_load_encoder(start, device), input_size), load_pairs(pairs.folder)
    if is_transferred:
        stored = transfer(stored, encoder, input_size)
    if not is_frozen:
        return stored, None
    with torch.no_grad(), products("float32"):
        parts = [
            encoder.module(part.contiguous(memory_format=torch.channels_last).to(device))
            for part in stored.images.split(64)
        ]
    return stored, torch.cat(parts)
