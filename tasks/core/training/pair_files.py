"""Writes and reads a PairSet in an artifact folder: `pairs.safetensors` and `pairs.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.core.foundations.tensor_files import load_tensors, save_tensors
from tasks.core.training.pair_set import LEFT, PairSet, Similarity

PAIRS, FACTS = "pairs.safetensors", "pairs.json"


def save_pairs(folder: Path, pairs: PairSet) -> None:
    """Write a PairSet as `pairs.safetensors` and `pairs.json`."""
    tensors = {"images": pairs.images, "text_embeds": pairs.text_embeds}
    facts: dict[str, Any] = {
        "mean": pairs.mean,
        "std": pairs.std,
        "step_sizes": pairs.step_sizes,
        "loss": pairs.loss,
        "provenance": pairs.provenance,
    }
    if pairs.similarity is not None:
        soft = pairs.similarity
        tensors |= soft.rows
        facts["sim_alpha"] = soft.alpha
    save_tensors(folder / PAIRS, tensors)
    (folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def load_pairs(folder: Path) -> PairSet:
    """Read a PairSet written by `save_pairs`."""
    tensors = load_tensors(folder / PAIRS)
    facts = json.loads((folder / FACTS).read_text())
    soft = None
    if LEFT in tensors:
        soft = Similarity.of(tensors, facts["sim_alpha"])
    return PairSet(
        images=tensors["images"],
        text_embeds=tensors["text_embeds"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        similarity=soft,
        step_sizes=facts["step_sizes"],
        loss=facts["loss"],
        provenance=facts["provenance"],
    )
