"""Between artifacts and core: the encoder of a start artifact, fresh dual encoders, and splits with their features."""

from __future__ import annotations

import torch

from tasks.artifacts import Ref
from tasks.core.dual_encoder import DualEncoder, build_dual_encoder
from tasks.core.encoders import ImageEncoder
from tasks.core.experts import Buffer
from tasks.core.functional import FlatModel
from tasks.core.records import PairSet, Split
from tasks.core.seeding import derive_seed
from tasks.core.storage import load_split
from tasks.core.tensor_files import load_tensors
from tasks.core.transfer import at_size
from tasks.params import Params

ENCODER = "encoder.safetensors"


def is_encoder_frozen(params: Params) -> bool:
    """Whether image features are computed once (`heads`, `text_head`)."""
    return params.model.is_encoder_frozen


def load_encoder(params: Params, start: Ref, device: torch.device) -> ImageEncoder:
    """Return a fresh copy of the shared image encoder on `device`; the pretrained file is not needed any more."""
    plugin = params.image_encoder
    encoder = plugin.module.rebuild(plugin.config, load_tensors(start.folder / ENCODER))
    encoder.module.to(device)
    return at_size(encoder, params.input_size)


def new_model(params: Params, encoder: ImageEncoder, text_dim: int, *names: str | int) -> DualEncoder:
    """Return a dual encoder with fresh projections, seeded by the profile's seed and `names`; `encoder` is copied where it is trained."""
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
    """Return a split; with the frozen encoder's features when there are any."""
    features = start.folder if is_encoder_frozen(params) else None
    return load_split(prepared.folder, embeddings.folder, split, features)


def load_buffer(flat: FlatModel, experts: list[Ref]) -> Buffer:
    """Return the stored trajectories of `experts` for the model of `flat`, which must be at its start."""
    return Buffer([ref.folder for ref in experts], flat.flatten(), device=flat.device)


def features_of(params: Params, encoder: ImageEncoder, pairs: PairSet) -> torch.Tensor | None:
    """Return the frozen encoder's features (M, F) of a set's images, or None when students train the encoder."""
    if not is_encoder_frozen(params):
        return None
    device = next(encoder.module.parameters()).device
    with torch.no_grad():
        parts = [encoder.module(part.contiguous(memory_format=torch.channels_last).to(device)) for part in pairs.images.split(64)]
    return torch.cat(parts)
