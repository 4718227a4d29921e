"""Defines the set that students train on, a coreset or a distilled set, as a record and as
batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tasks.core.foundations.text_spans import TextSpans
from tasks.core.training.eight_bits import Storage
from tasks.core.training.parts import split_parts
from tasks.core.training.student_losses import HARD, SOFT

DIAGONAL, LEFT, RIGHT = "sim_diagonal", "sim_left", "sim_right"
LOG_WEIGHTS = "log_weights"


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
    """What a student is trained on, a coreset or a distilled set: M pictures with their texts.

    Attributes:
        images: (M, C, H, W) float32 in the normalised space of (`mean`, `std`).
        text_embeds: (T, D) float32 caption embeddings; T is M unless a picture has several texts,
            or several parts.
        mean, std: per-channel normalisation of `images`, for pictures and for other encoders.
        similarity: learned soft similarity, or None for the identity.
        step_sizes: learned step sizes {"img": float, "txt": float}, or None.
        loss: name in `student_losses.py`, with which a student is to be trained
            (`similarity.set_loss`); the soft ones need a similarity.
        storage: how files hold it, see `eight_bits.py`; with `uint8` they hold these very values.
        parts: parts of a side; each of the parts x parts of a picture is an image that a student
            sees, see `parts.py`.
        image_size: side in pixels of the images that a student sees, where it is not that of
            `images`; None: that of `images`.
        text_image_idx: (T,) int64, the image that each text belongs to, ascending; None: text i
            belongs to image i. A student draws one of an image's texts at every visit.
        real_bytes: of real pairs, the bytes of their pictures as JPEG and of their captions; None
            for synthetic ones.
        log_weights: (num_images,) logarithms of the weights that pairs have in a student's loss,
            see `losses.info_nce`; None: all alike.
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
    storage: Storage = "float32"
    parts: int = 1
    image_size: int | None = None
    text_image_idx: Tensor | None = None
    real_bytes: int | None = None
    log_weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.text_embeds.ndim != 2:
            raise ValueError(
                "a PairSet needs images (M, C, H, W) and text_embeds (T, D); received "
                f"{tuple(self.images.shape)} and {tuple(self.text_embeds.shape)}"
            )
        self._check_texts()
        self._check_loss()
        self._check_values()

    def _check_texts(self) -> None:
        texts, images = len(self.text_embeds), self.num_images
        if self.text_image_idx is None:
            if texts != images:
                raise ValueError(
                    f"a PairSet needs images (M, C, H, W) and text_embeds (M, D) of the same M; "
                    f"received {images} and {texts}"
                )
            return
        counts = torch.bincount(self.text_image_idx, minlength=images)
        is_ascending = bool((self.text_image_idx.diff() >= 0).all())
        if len(self.text_image_idx) != texts or len(counts) != images or not is_ascending:
            raise ValueError(
                f"PairSet.text_image_idx: received {len(self.text_image_idx)} numbers for {texts} "
                f"texts of {images} images; it needs one a text, ascending from 0 to {images - 1}"
            )
        if not counts.all():
            raise ValueError("PairSet.text_image_idx: received an image without a text")

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
        if not counts <= {self.num_images}:
            raise ValueError(
                f"PairSet.similarity: received {sorted(counts)} rows for {self.num_images} images; "
                "it needs one an image"
            )

        if self.log_weights is not None:
            shape = tuple(self.log_weights.shape)
            if shape != (self.num_images,) or self.loss not in HARD:
                raise ValueError(
                    f"PairSet.log_weights: received {shape} with the loss {self.loss!r}; allowed "
                    f"is ({self.num_images},), one an image, with {', '.join(HARD)}; change "
                    "`weights` or `loss` of the method that makes the set"
                )

    def _check_values(self) -> None:
        tensors = {"images": self.images, "text_embeds": self.text_embeds}
        if self.log_weights is not None:
            tensors[LOG_WEIGHTS] = self.log_weights
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
        """Stored pictures, M."""
        return int(self.images.shape[0])

    @property
    def num_images(self) -> int:
        """Images that a student sees, M x parts x parts."""
        return self.num_pairs * self.parts**2

    @property
    def num_training_pairs(self) -> int:
        """Pairs of an image and a text that a student sees, T."""
        return len(self.text_embeds)

    @property
    def first_texts(self) -> Tensor:
        """(M,) int64, the number of the first text of each picture, to show beside it."""
        firsts = torch.arange(self.num_images)
        if self.text_image_idx is not None:
            firsts = torch.searchsorted(self.text_image_idx, firsts)
        return firsts[:: self.parts**2]

    def student_images(self) -> Tensor:
        """Return the images (num_images, C, image_size, image_size) that a student sees."""
        return split_parts(self.images, self.parts, self.image_size)

    def with_provenance(self, provenance: dict[str, Any]) -> PairSet:
        """Return the same set with these facts about where it comes from."""
        return replace(self, provenance=provenance)


class SetPairs:
    """The pairs of a coreset or a distilled set, as batches for training.

    Args:
        features: (num_images, F) features of the images under a frozen encoder, which take their
            place.
    """

    def __init__(
        self, pairs: PairSet, *, device: torch.device, features: Tensor | None = None
    ) -> None:
        if features is None:
            # Convolutions take this layout without a copy
            features = pairs.student_images().contiguous(memory_format=torch.channels_last)
        self.images, self.text_embeds = features.to(device), pairs.text_embeds.to(device)
        self._texts = None
        if pairs.text_image_idx is not None:
            self._texts = TextSpans(pairs.text_image_idx, pairs.num_images)

    @property
    def num_pairs(self) -> int:
        return len(self.images)

    def take(
        self, rows: Tensor, captions: torch.Generator, pictures: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        texts = rows if self._texts is None else self._texts.draw(rows, captions)
        device = self.images.device
        images = self.images[rows.to(device, non_blocking=True)]
        return images, self.text_embeds[texts.to(device, non_blocking=True)]
