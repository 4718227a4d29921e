"""The files inside artifact folders: prepared splits, caption embeddings, snapshots and pair sets
as safetensors and Parquet.

Reading goes through memory maps, so a dataset larger than memory costs only the rows that are
touched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tasks.core.records import PairSet, Similarity, Split
from tasks.core.tensor_files import load_tensors, map_tensor, save_tensors

IMAGES, CAPTIONS, EMBEDDINGS = "images.safetensors", "captions.parquet", "embeddings.safetensors"
FEATURES, PAIRS = "features.safetensors", "pairs.safetensors"


def load_split(prepared: Path, embeddings: Path, split: str, features: Path | None = None) -> Split:
    """Return one split of a prepared dataset; images stay in their memory map.

    Args:
        prepared: folder with `images.safetensors` (N, S, S, 3) uint8, `images.parquet` and
            `captions.parquet`.
        embeddings: folder with `embeddings.safetensors` (T, D) float32, rows as in
            `captions.parquet`.
        split: `train`, `val` or `test`.
        features: folder with `features.safetensors` (N, F) of a frozen image encoder, or None.
    """
    images = pd.read_parquet(prepared / "images.parquet")
    captions = pd.read_parquet(prepared / CAPTIONS)
    rows = (images["split"] == split).to_numpy().nonzero()[0]
    if len(rows) == 0:
        raise ValueError(
            f"{prepared}: split {split!r} has no images; the dataset needs train, val and test "
            "images"
        )
    # A split is contiguous, and captions ascend with their images: slices of the memory maps, no
    # copy of the rest.
    first, last = int(rows[0]), int(rows[-1]) + 1
    owners = captions["image_idx"].to_numpy()
    begin, end = int(owners.searchsorted(first)), int(owners.searchsorted(last))
    embeds = torch.from_numpy(
        map_tensor(embeddings / EMBEDDINGS, "embeddings", mode="c")[begin:end]
    )
    stored = None
    if features is not None:
        stored = torch.from_numpy(map_tensor(features / FEATURES, "features", mode="c")[first:last])
    return Split(
        images=map_tensor(prepared / IMAGES, "images")[first:last],
        caption_image_idx=torch.from_numpy(owners[begin:end] - first),
        text_embeds=embeds,
        captions=tuple(captions["text"].iloc[begin:end]),
        features=stored,
    )


def save_theta(path: Path, theta: dict[str, Tensor]) -> None:
    """Write one snapshot {"img": (P_img,), "txt": (P_txt,)}; an empty group is left out."""
    save_tensors(
        path, {name: value.detach().cpu() for name, value in theta.items() if value.numel()}
    )


def load_theta(path: Path) -> dict[str, Tensor]:
    """Read one snapshot written by `save_theta`; a missing group comes back with no elements."""
    stored = load_tensors(path)
    return {name: stored.get(name, torch.zeros(0)) for name in ("img", "txt")}


def save_pairs(folder: Path, pairs: PairSet) -> None:
    """Write a PairSet as `pairs.safetensors` and `pairs.json`."""
    tensors = {"images": pairs.images.contiguous(), "text_embeds": pairs.text_embeds.contiguous()}
    facts: dict[str, Any] = {
        "mean": pairs.mean,
        "std": pairs.std,
        "step_sizes": pairs.step_sizes,
        "loss": pairs.loss,
        "provenance": pairs.provenance,
    }
    if pairs.similarity is not None:
        soft = pairs.similarity
        tensors.update(sim_diagonal=soft.diagonal, sim_left=soft.left, sim_right=soft.right)
        facts["sim_alpha"] = soft.alpha
    save_tensors(folder / PAIRS, tensors)
    (folder / "pairs.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def load_pairs(folder: Path) -> PairSet:
    """Read a PairSet written by `save_pairs`."""
    tensors = load_tensors(folder / PAIRS)
    facts = json.loads((folder / "pairs.json").read_text())
    soft = None
    if "sim_left" in tensors:
        soft = Similarity(
            tensors["sim_diagonal"], tensors["sim_left"], tensors["sim_right"], facts["sim_alpha"]
        )
    return PairSet(
        images=tensors["images"],
        text_embeds=tensors["text_embeds"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        similarity=soft,
        step_sizes=facts["step_sizes"],
        loss=facts.get("loss", "info_nce"),  # sets of before the losses had names
        provenance=facts["provenance"],
    )
