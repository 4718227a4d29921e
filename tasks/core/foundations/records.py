"""Defines the records that travel between the rooms of the core.

Our renamings of published names: `text_embeds` for the synthetic "text labels", `step_sizes` for
`syn_lr_img/txt`, `i2t_r1` for upstream's `txt_r1` and `t2i_r1` for its `img_r1`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageCaptions:
    """One raw example as a dataset plugin yields it.

    Attributes:
        name: unique file name inside the dataset, without `..` and not absolute.
        split: one of `SPLITS`.
        captions: at least one non-empty caption.
        load: returns the picture as a PIL image in its own mode, for `images.decode`; called once,
            lazily.
    """

    name: str
    split: str
    captions: tuple[str, ...]
    load: Any = field(repr=False)


@dataclass(frozen=True)
class Split:
    """One split of a prepared dataset, all captions ragged.

    Attributes:
        images: (N, S, S, 3) uint8 array, usually a read-only memory map.
        caption_image_idx: (T,) int64, the image (0..N-1) of each caption, ascending.
        text_embeds: (T, D) float32 caption embeddings, in the order of `caption_image_idx`.
        captions: the T caption texts.
        features: (N, F) float32 frozen image features, when the encoder is frozen; else None.
    """

    images: np.ndarray
    caption_image_idx: Tensor
    text_embeds: Tensor
    captions: tuple[str, ...]
    features: Tensor | None = None

    @property
    def num_images(self) -> int:
        return int(self.images.shape[0])
