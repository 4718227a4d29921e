"""Loads the files of a prepared dataset: images, captions, embeddings and features.

They are memory maps: of a dataset larger than memory, only the rows that are used are read.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from tasks.core.foundations.file_names import CAPTIONS, IMAGES, NAMES
from tasks.core.foundations.records import Split
from tasks.core.foundations.tensor_files import map_tensor

EMBEDDINGS, FEATURES = "embeddings.safetensors", "features.safetensors"


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
    images = pd.read_parquet(prepared / NAMES)
    captions = pd.read_parquet(prepared / CAPTIONS)
    rows = (images["split"] == split).to_numpy().nonzero()[0]
    if len(rows) == 0:
        raise ValueError(
            f"{prepared}: split {split!r} has no images; the dataset needs train, val and test "
            "images"
        )
    # A split is contiguous, and captions ascend with their images (`preparation.py`). So a split is
    # slices of the memory maps, without a copy.
    first, last = int(rows[0]), int(rows[-1]) + 1
    owners = captions["image_idx"].to_numpy()
    begin, end = int(owners.searchsorted(first)), int(owners.searchsorted(last))
    # Mode "c" makes the array writable, as torch wants it, and never changes the file
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
