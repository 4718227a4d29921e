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

from tasks.core.data.storage import load_split
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import derive_seed
from tasks.core.foundations.tensor_files import load_tensors
from tasks.core.networks.dual_encoder import DualEncoder, build_dual_encoder
from tasks.core.networks.encoders import ImageEncoder
from tasks.settings.params import Params, Plugin
from tasks.store.artifacts import Ref

ENCODER = "encoder.safetensors"


@dataclass(frozen=True)
class Place:
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
    return load_encoder_of(Place(start.digest, start.folder, params.image_encoder), device)


@functools.lru_cache(maxsize=2)
def load_encoder_of(start: Place, device: torch.device) -> ImageEncoder:
    """Return the encoder of a start artifact; see `load_encoder`."""
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
    features = Place(start.digest, start.folder) if is_encoder_frozen(params) else None
    return _open_split(
        Place(prepared.digest, prepared.folder),
        Place(embeddings.digest, embeddings.folder),
        split,
        features,
    )


@functools.lru_cache(maxsize=6)
def _open_split(prepared: Place, embeddings: Place, split: str, features: Place | None) -> Split:
    return load_split(
        prepared.folder, embeddings.folder, split, features.folder if features else None
    )
