"""Reads a set of published code (LoRS and others): a .pt file with a dictionary of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core.training.pair_set import PairSet, Similarity

PUBLISHED = ("image", "text", "similarity_params", "syn_lr_img", "syn_lr_txt")


@dataclass(frozen=True)
class Stated:
    """What a user says about a file or folder that does not say it itself.

    Attributes:
        text_encoder: name of the text encoder in folders.
        mean, std: of the normalisation of the images, per channel.
        loss, sim_alpha: of a set with a similarity.
        picture_column, caption_column: of a table of real pairs.
        resize: whether real pictures of another size are brought to that of the profile.
    """

    text_encoder: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    loss: str | None = None
    sim_alpha: float | None = None
    picture_column: str | None = None
    caption_column: str | None = None
    resize: bool = False

    def only(self, kind: str, *allowed: str) -> None:
        """Refuse what is stated although a file of this kind says it itself, or has no use for it.

        Args:
            kind: name of the kind, for the message.
            allowed: names of the fields that may be stated.
        """
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        extra = [name for name in given if name not in allowed]
        if extra:
            raise ValueError(
                f"--{extra[0].replace('_', '-')}: received with {kind}, which says it itself, or "
                f"has none; allowed: {', '.join(allowed) or 'none'}; leave it out"
            )


def read_published(path: Path, stated: Stated, label: str) -> PairSet:
    """Return the set of a .pt file; no code of the file runs.

    Args:
        label: the text encoder of the profile.

    Raises:
        ValueError: anything else than a dictionary of `PUBLISHED`, or something is not stated.
    """
    stated.only("a .pt file", "text_encoder", "mean", "std", "loss", "sim_alpha")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle raises whatever it leads to
        raise ValueError(
            f"{path}: received what cannot be read without running its code "
            f"({f'{error!r}'.splitlines()[0]:.120}); allowed is a dictionary of tensors; save it "
            "as such"
        ) from error
    names = sorted(map(str, found)) if isinstance(found, dict) else [type(found).__name__]
    if not {"image", "text"} <= set(names) <= set(PUBLISHED):
        raise ValueError(
            f"{path}: received {', '.join(names)}; allowed: {', '.join(PUBLISHED)}, the first two "
            "needed; save the set as a dictionary of these"
        )
    if stated.text_encoder != label:
        raise ValueError(
            f"--text-encoder: received {stated.text_encoder!r}; allowed is {label!r}, of the "
            "profile: texts of another one mean nothing to its students; state it, or change "
            "embed_captions"
        )
    if stated.mean is None or stated.std is None:
        raise ValueError(
            f"--mean, --std: received {stated.mean}, {stated.std}; needed for {path}, which does "
            "not say how its images are normalised; state both, as 0.5,0.5,0.5"
        )
    if not is_normalisation(stated.mean, stated.std):
        raise ValueError(
            f"--mean, --std: received {stated.mean}, {stated.std}; allowed are three numbers each, "
            "those of --std positive; change them"
        )
    soft, loss = _soft(path, found.get("similarity_params"), stated)
    rates = [name for name in ("syn_lr_img", "syn_lr_txt") if name in found]
    # `img` and `txt`, as this program names them
    sizes = {name[-3:]: _number(path, name, found[name]) for name in rates}
    if len(rates) == 1:
        raise ValueError(
            f"{path}: received {rates[0]} alone; allowed are both step sizes or none; save both"
        )
    images, texts = (_floats(path, name, found[name]) for name in ("image", "text"))
    try:
        return PairSet(images, texts, stated.mean, stated.std, soft, sizes or None, loss)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _soft(path: Path, value: Any, stated: Stated) -> tuple[Similarity | None, str]:
    """Return the similarity of a published file, and the loss of its students."""
    if value is None:
        stated.only("a file without similarity_params", "text_encoder", "mean", "std")
        return None, "info_nce"
    if stated.loss is None or stated.sim_alpha is None:
        raise ValueError(
            f"--loss, --sim-alpha: received {stated.loss}, {stated.sim_alpha}; needed for {path}, "
            "which has similarity_params; state both, as wbce and 3"
        )
    if not math.isfinite(stated.sim_alpha):
        raise ValueError(
            f"--sim-alpha: received {stated.sim_alpha}; allowed is a finite number; change it"
        )
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError(
            f"{path}: similarity_params: received {type(value).__name__}; allowed is a list of "
            "diagonal (M,), left (M, r) and right (M, r); save it as such"
        )
    diagonal, left, right = (_floats(path, "similarity_params", part) for part in value)
    if diagonal.ndim != 1 or left.ndim != 2 or left.shape != right.shape or not left.shape[1]:
        shapes = [tuple(part.shape) for part in (diagonal, left, right)]
        raise ValueError(
            f"{path}: similarity_params: received {shapes}; allowed is (M,), (M, r), (M, r), "
            "with r of at least 1; save it as such"
        )
    return Similarity(diagonal, left, right, stated.sim_alpha), stated.loss


def _floats(path: Path, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not _is_plain(value):
        told = (
            f"{value.dtype}, {value.layout}" if isinstance(value, Tensor) else type(value).__name__
        )
        raise ValueError(
            f"{path}: {name}: received {told}; allowed is a dense tensor of floats; save it as such"
        )
    # Published tensors may ask for gradients, and may be of half precision
    return value.detach().float().contiguous()


def is_normalisation(mean: Any, std: Any) -> bool:
    """Tell whether these are three finite numbers each, those of `std` positive."""
    try:
        return len(mean) == len(std) == 3 and all(
            math.isfinite(centre) and math.isfinite(width) and width > 0
            for centre, width in zip(mean, std, strict=True)
        )
    except (TypeError, OverflowError):
        return False


def _is_plain(value: Tensor) -> bool:
    is_dense = value.layout == torch.strided and not value.is_meta
    return is_dense and value.dtype.is_floating_point


def _number(path: Path, name: str, value: Any) -> float:
    if isinstance(value, Tensor) and _is_plain(value) and value.numel() == 1:
        return float(value)
    if isinstance(value, float):
        return value
    raise ValueError(f"{path}: {name}: received {value!r:.60}; allowed is one number; save it so")
