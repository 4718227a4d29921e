"""Writes and reads a PairSet in an artifact folder: `pairs.safetensors` and `pairs.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core.foundations.tensor_files import (
    load_tensors,
    map_tensor,
    save_tensors,
    tensor_bytes,
)
from tasks.core.networks.encoders import normalise
from tasks.core.training.eight_bits import to_pictures
from tasks.core.training.pair_set import LEFT, LOG_WEIGHTS, PairSet, Similarity

PAIRS, FACTS = "pairs.safetensors", "pairs.json"
TEXT_IMAGE_IDX = "text_image_idx"


def save_pairs(folder: Path, pairs: PairSet) -> None:
    """Write a PairSet as `pairs.safetensors` and `pairs.json`.

    Raises:
        ValueError: its values are not those that its storage holds.
    """
    tensors = _stored(pairs)
    facts: dict[str, Any] = {
        "mean": pairs.mean,
        "std": pairs.std,
        "step_sizes": pairs.step_sizes,
        "loss": pairs.loss,
        "provenance": pairs.provenance,
    }
    # Said where they apply: files without them are of sets that have nothing of the kind
    if pairs.storage != "float32":
        facts["storage"] = pairs.storage
    if pairs.parts != 1:
        facts["parts"] = pairs.parts
    if pairs.image_size is not None:
        facts["image_size"] = pairs.image_size
    if pairs.real_bytes is not None:
        facts["real_bytes"] = pairs.real_bytes
    if pairs.similarity is not None:
        facts["sim_alpha"] = pairs.similarity.alpha
    save_tensors(folder / PAIRS, tensors)
    (folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def load_pairs(folder: Path) -> PairSet:
    """Read a PairSet written by `save_pairs`."""
    tensors = load_tensors(folder / PAIRS)
    facts = json.loads((folder / FACTS).read_text())
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    images, soft = tensors["images"], None
    if images.dtype == torch.uint8:
        images = normalise(images, mean, std)
    if LEFT in tensors:
        soft = Similarity.of(tensors, facts["sim_alpha"])
    text_image_idx = None
    if TEXT_IMAGE_IDX in tensors:
        text_image_idx = tensors[TEXT_IMAGE_IDX].to(torch.int64)
    return PairSet(
        images=images,
        text_embeds=tensors["text_embeds"].to(torch.float32),
        mean=mean,
        std=std,
        similarity=soft,
        step_sizes=facts["step_sizes"],
        loss=facts["loss"],
        provenance=facts["provenance"],
        storage=facts.get("storage", "float32"),
        parts=facts.get("parts", 1),
        image_size=facts.get("image_size"),
        text_image_idx=text_image_idx,
        real_bytes=facts.get("real_bytes"),
        log_weights=tensors.get(LOG_WEIGHTS),
    )


def num_images(folder: Path) -> int:
    """Return how many images a student sees of a stored set, without reading them."""
    pictures = len(map_tensor(folder / PAIRS, "images"))
    parts = json.loads((folder / FACTS).read_text()).get("parts", 1)
    return int(pictures * parts**2)


@dataclass(frozen=True)
class Size:
    """How large a set is.

    Attributes:
        training_pairs: pairs of an image and a text that a student sees.
        num_bytes: as stored, see `num_bytes`; None for the full data, which is not stored as a set.
        bits: of a value of a picture.
    """

    training_pairs: int
    num_bytes: int | None
    bits: int


def size_of(pairs: PairSet) -> Size:
    """Return how large a set is."""
    is_8_bit = pairs.storage == "uint8" or pairs.real_bytes is not None
    return Size(pairs.num_training_pairs, num_bytes(pairs), 8 if is_8_bit else 32)


def num_bytes(pairs: PairSet) -> int:
    """Return the bytes of a set as stored; of real pairs, those of pictures and captions."""
    if pairs.real_bytes is not None:
        return pairs.real_bytes
    return sum(value.numel() * value.element_size() for value in _stored(pairs).values())


def stored_bytes(folder: Path) -> int:
    """Return `num_bytes` of the set in a folder, without reading its tensors."""
    real_bytes: int | None = json.loads((folder / FACTS).read_text()).get("real_bytes")
    return tensor_bytes(folder / PAIRS) if real_bytes is None else real_bytes


def _stored(pairs: PairSet) -> dict[str, Tensor]:
    """Return the tensors of a set as files hold them."""
    tensors = {"images": pairs.images, "text_embeds": pairs.text_embeds}
    if pairs.storage == "uint8":
        pictures = to_pictures(pairs.images, pairs.mean, pairs.std)
        texts = pairs.text_embeds.to(torch.float16)
        shown = normalise(pictures, pairs.mean, pairs.std)
        is_kept = torch.equal(shown, pairs.images)
        if not is_kept or not torch.equal(texts.to(torch.float32), pairs.text_embeds):
            raise ValueError(
                "PairSet.storage: received 'uint8' with values that 8-bit pictures and float16 "
                "texts do not hold; round them by eight_bits.py, or store them as float32"
            )
        tensors = {"images": pictures, "text_embeds": texts}
    if pairs.text_image_idx is not None:
        tensors[TEXT_IMAGE_IDX] = pairs.text_image_idx.to(torch.int32)
    if pairs.log_weights is not None:
        tensors[LOG_WEIGHTS] = pairs.log_weights
    if pairs.similarity is not None:
        tensors |= pairs.similarity.rows
    return tensors
