"""Defines the set that students train on, a coreset or a distilled set, as a record and as
batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tasks.core.training.student_losses import HARD, SOFT

DIAGONAL, LEFT, RIGHT = "sim_diagonal", "sim_left", "sim_right"


@dataclass(frozen=True)
class Similarity:
    """Soft similarity of LoRS, S = diag(diagonal) + (alpha / r) left @ right.T (METHOD 6).

    Attributes:
        diagonal: (M,).
        left, right: (M, r).
        alpha: scale.
    """

    diagonal: Tensor
    left: Tensor
    right: Tensor
    alpha: float

    @staticmethod
    def of(rows: dict[str, Tensor], alpha: float) -> Similarity:
        """Return the record of rows that are called as in `rows`; others are ignored."""
        return Similarity(rows[DIAGONAL], rows[LEFT], rows[RIGHT], alpha)

    @property
    def rows(self) -> dict[str, Tensor]:
        """The tensors under the names that they have in files and among learned rows."""
        return {DIAGONAL: self.diagonal, LEFT: self.left, RIGHT: self.right}


@dataclass(frozen=True)
class PairSet:
    """M image-text pairs that a student is trained on: a coreset or a distilled set.

    Attributes:
        images: (M, C, H, W) float32 in the normalised space of (`mean`, `std`).
        text_embeds: (M, D) float32 caption embeddings.
        mean, std: per-channel normalisation of `images`, for pictures and for other encoders.
        similarity: learned soft similarity, or None for the identity.
        step_sizes: learned step sizes {"img": float, "txt": float}, or None.
        loss: name in `student_losses.py`, with which a student is to be trained
            (`similarity.set_loss`); the soft ones need a similarity.
        provenance: JSON-serialisable facts: method, dataset, source row indices, seeds, warm-up
            model.
    """

    images: Tensor
    text_embeds: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    similarity: Similarity | None = None
    step_sizes: dict[str, float] | None = None
    loss: str = "info_nce"
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (
            self.images.ndim != 4
            or self.text_embeds.ndim != 2
            or len(self.images) != len(self.text_embeds)
        ):
            raise ValueError(
                "a PairSet needs images (M, C, H, W) and text_embeds (M, D) of the same M; "
                "received "
                f"{tuple(self.images.shape)} and {tuple(self.text_embeds.shape)}"
            )
        self._check_loss()
        self._check_values()

    def _check_loss(self) -> None:
        soft = self.similarity
        if self.loss not in HARD and (self.loss not in SOFT or soft is None):
            received = f"{self.loss!r} {'without' if soft is None else 'with'} a similarity"
            raise ValueError(
                f"PairSet.loss: received {received}; allowed are {', '.join(HARD)}, and "
                f"with a similarity {', '.join(SOFT)}; "
                "change `loss` of the method that makes the set"
            )
        counts = {len(value) for value in soft.rows.values()} if soft else set[int]()
        if not counts <= {self.num_pairs}:
            raise ValueError(
                f"PairSet.similarity: received {sorted(counts)} rows for {self.num_pairs} pairs; "
                "it needs one a pair"
            )

    def _check_values(self) -> None:
        tensors = {"images": self.images, "text_embeds": self.text_embeds}
        if self.similarity is not None:
            tensors |= self.similarity.rows
        for name, value in tensors.items():
            # NaN passes through the extremes, which need no mask as large as the images
            if value.numel() and not torch.stack(value.aminmax()).isfinite().all():
                raise ValueError(
                    f"PairSet.{name} has non-finite values; a set with NaN or infinity is never "
                    "saved or trained on"
                )
        if not all(0.0 < size < float("inf") for size in (self.step_sizes or {}).values()):
            raise ValueError(
                f"PairSet.step_sizes: received {self.step_sizes}; allowed are positive finite "
                "numbers; lower lr_step_size of the method "
                "that makes the set"
            )

    @property
    def num_pairs(self) -> int:
        return int(self.images.shape[0])

    def with_provenance(self, provenance: dict[str, Any]) -> PairSet:
        """Return the same set with these facts about where it comes from."""
        return replace(self, provenance=provenance)


class SetPairs:
    """The pairs of a coreset or a distilled set, as batches for training.

    Args:
        features: (M, F) features of the images under a frozen encoder, which take their place.
    """

    def __init__(
        self, pairs: PairSet, *, device: torch.device, features: Tensor | None = None
    ) -> None:
        # Convolutions take this layout without a copy
        images = pairs.images.contiguous(memory_format=torch.channels_last)
        if features is not None:
            images = features
        self.images, self.text_embeds = images.to(device), pairs.text_embeds.to(device)

    @property
    def num_pairs(self) -> int:
        return len(self.images)

    def take(
        self, rows: Tensor, captions: torch.Generator, pictures: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        rows = rows.to(self.images.device, non_blocking=True)
        return self.images[rows], self.text_embeds[rows]
