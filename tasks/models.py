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
from tasks.keys import Inputs
from tasks.settings.steps import Network
from tasks.settings.validation import Plugin
from tasks.store.artifacts import Ref

ENCODER = "encoder.safetensors"


@dataclass(frozen=True)
class Place:
    """Where an artifact lies; two are equal when their content is."""

    digest: str
    folder: Path = field(compare=False)
    plugin: Plugin | None = field(default=None, compare=False)


def load_encoder(network: Network, start: Ref, device: torch.device) -> ImageEncoder:
    """Return the shared image encoder on `device`, from the start artifact alone.

    It is the same module at every call: `new_model` copies it where it is trained, and nobody else
    may change it.
    """
    return load_encoder_of(Place(start.digest, start.folder, network.image_encoder), device)


# The distilled encoder and that of one further student
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
    network: Network, encoder: ImageEncoder, text_dim: int, *names: str | int
) -> DualEncoder:
    """Return a dual encoder with fresh projections, seeded by the profile's seed and `names`.

    `encoder` is copied where it is trained.
    """
    section = network.model
    model = build_dual_encoder(
        encoder.module,
        out_dim=encoder.out_dim,
        text_dim=text_dim,
        trainable=section.trainable,
        embed_dim=section.embed_dim,
        dropout=section.dropout,
        seed=derive_seed(network.seed, *names),
        lora=section.lora,
        hidden_layers=network.hidden_layers,
    )
    return model.to(next(encoder.module.parameters()).device)


def open_split(network: Network, inputs: Inputs, split: str) -> Split:
    """Return a split, with the features of a frozen encoder. Nobody may change its tensors."""
    prepared, embeddings, start = (
        Place(ref.digest, ref.folder) for ref in (inputs.prepared, inputs.embeddings, inputs.start)
    )
    features = start if network.model.is_encoder_frozen else None
    return _open_split(prepared, embeddings, split, features)


# Training, validation and test split under two encoders
@functools.lru_cache(maxsize=6)
def _open_split(prepared: Place, embeddings: Place, split: str, features: Place | None) -> Split:
    start = features.folder if features else None
    return load_split(prepared.folder, embeddings.folder, split, start)
