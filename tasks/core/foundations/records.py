"""Defines the records that travel between the rooms of the core.

Published code has other names: "text labels" for the synthetic `text_embeds`, `syn_lr_img/txt` for
`step_sizes`, `txt_r1` for `i2t_r1`, and `img_r1` for `t2i_r1`.
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
        load: returns the picture as a PIL image in the mode of its file, for `images.decode`. It is
            called once, when the picture is prepared.
    """

    name: str
    split: str
    captions: tuple[str, ...]
    load: Any = field(repr=False)


@dataclass(frozen=True)
class Split:
    """One split of a prepared dataset. Images may have different numbers of captions.

    Attributes:
        images: (N, S, S, 3) uint8 array, usually a read-only memory map.
        caption_image_idx: (T,) int64, the image (0..N-1) of each caption, ascending.
        text_embeds: (T, D) float32 caption embeddings, in the order of `caption_image_idx`.
        captions: the T caption texts.
        features: (N, F) float32 image features when the encoder is frozen; else None.
    """

    images: np.ndarray
    caption_image_idx: Tensor
    text_embeds: Tensor
    captions: tuple[str, ...]
    features: Tensor | None = None

    @property
    def num_images(self) -> int:
        return int(self.images.shape[0])
