"""Counts what real pairs take, so that sets can be compared at equal bytes.

A real pair is kept as a JPEG of its prepared size with all its captions. A synthetic pair is kept
as 8-bit pixels with a float16 text.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

from tasks.core.foundations.records import Split
from tasks.core.foundations.text_spans import TextSpans

# Chosen to match Flickr8k's own files at 160 px: 8.7 KB a picture, where these take 8.8
JPEG_QUALITY = 85
_PIXEL, _TEXT_VALUE = 1, 2  # bytes


class RealBytes:
    """Counts the bytes of the real pairs of a split."""

    def __init__(self, train: Split) -> None:
        self._train = train
        self._texts = TextSpans(train.caption_image_idx, train.num_images)

    @property
    def synthetic_bytes(self) -> int:
        """Bytes of a synthetic pair of the same size, in 8 bits."""
        pixels, values = self._train.images[0].size, self._train.text_embeds.shape[1]
        return int(pixels) * _PIXEL + values * _TEXT_VALUE

    def captions_of(self, image: int) -> range:
        """Return the numbers of all captions of an image."""
        first = int(self._texts.firsts[image])
        return range(first, first + int(self._texts.counts[image]))

    def bytes_of(self, image: int, captions: range | list[int]) -> int:
        """Return the bytes of an image as JPEG and of the given captions as UTF-8."""
        texts = (self._train.captions[number] for number in captions)
        return jpeg_bytes(self._train.images[image]) + sum(len(text.encode()) for text in texts)

    def total(self, image_idx: Tensor, caption_idx: Tensor) -> int:
        """Return the bytes of images (M,) and captions (T,)."""
        pictures = sum(self.bytes_of(image, []) for image in image_idx.tolist())
        texts = (self._train.captions[number] for number in caption_idx.tolist())
        return pictures + sum(len(text.encode()) for text in texts)


def jpeg_bytes(picture: np.ndarray) -> int:
    """Return the bytes of a picture (H, W, 3) uint8 as JPEG of `JPEG_QUALITY`."""
    packed = io.BytesIO()
    Image.fromarray(picture).save(packed, "JPEG", quality=JPEG_QUALITY)
    return len(packed.getvalue())
