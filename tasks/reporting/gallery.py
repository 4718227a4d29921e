"""Before and after: the real pair a synthetic pair began as, beside its distilled image and nearest
training sentence.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MAX_SIDE, LOSSLESS_SIDE, JPEG_QUALITY = 168, 96, 86
# Fills rows of two, three and four cards.
MAX_ROWS = 12
# Sheet of pictures for MLflow, in pixels.
SHEET_SIDE, SHEET_TEXT, SHEET_GAP, SHEET_COLUMNS, SHEET_LINES = 160, 66, 12, 4, 4
INK = "#16191d"

Target = Path | BinaryIO
Tile = Sequence[tuple[np.ndarray, str]]


@dataclass(frozen=True)
class GalleryRow:
    """One synthetic pair.

    Attributes:
        initial_image, distilled_image: (H, W, 3) uint8.
        initial_caption: the caption it began as.
        nearest_sentence: the training caption with the embedding of the largest cosine with the
            distilled one.
        similarity: that cosine, -1..1.
    """

    initial_image: np.ndarray
    distilled_image: np.ndarray
    initial_caption: str
    nearest_sentence: str
    similarity: float

    @cached_property
    def initial_uri(self) -> str:
        """The initial picture for the page, see `data_uri`."""
        return data_uri(self.initial_image)

    @cached_property
    def distilled_uri(self) -> str:
        """The distilled picture for the page."""
        return data_uri(self.distilled_image)

    @property
    def pixel_change(self) -> float:
        """Mean absolute difference of the two pictures, 0..255."""
        # uint8 would wrap around below zero
        initial, distilled = (
            self.initial_image.astype(np.int16),
            self.distilled_image.astype(np.int16),
        )
        return float(np.abs(initial - distilled).mean())

    @property
    def is_same_sentence(self) -> bool:
        """True when the nearest sentence still is the initial caption."""
        return self.initial_caption == self.nearest_sentence


@dataclass(frozen=True)
class Gallery:
    """Rows of one distilled set, for example `bi_trajectory-20`."""

    set: str
    rows: tuple[GalleryRow, ...]

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            shape = row.initial_image.shape
            for name in ("initial_image", "distilled_image"):
                image = getattr(row, name)
                is_picture = image.dtype == np.uint8 and image.shape == (*shape[:2], 3)
                if not is_picture or len(shape) != 3:
                    raise ValueError(
                        f"gallery {self.set!r}, pair {index}: {name} is no picture; received "
                        f"{image.dtype} {image.shape}; allowed are two "
                        "uint8 arrays of one shape (H, W, 3); make them with "
                        "tasks.reporting.gallery.to_pictures"
                    )


def fit_galleries(
    galleries: Sequence[Gallery], max_bytes: int
) -> dict[str, tuple[GalleryRow, ...]]:
    """Return as many of the first pairs of each set, at most `MAX_ROWS`, as keep all pictures
    within `max_bytes` (at least one).
    """
    limit = MAX_ROWS
    # All galleries are cut alike, so that they show the same number of pairs
    while True:
        pairs = {one.set: one.rows[:limit] for one in galleries}
        uris = [row.initial_uri + row.distilled_uri for row in chain(*pairs.values())]
        if limit == 1 or sum(map(len, uris)) <= max_bytes:
            return pairs
        limit -= 1


def to_pictures(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return (M, H, W, C) uint8 pictures of normalised images (M, C, H, W); values outside the
    displayable range are clipped.

    Raises:
        ValueError: `images` is not (M, C, H, W) with C the length of `mean` and `std`.
    """
    if images.ndim != 4 or not images.shape[1] == len(mean) == len(std):
        raise ValueError(
            f"no pictures; received images {tuple(images.shape)}, mean {tuple(mean)}, std "
            f"{tuple(std)}; allowed is (M, C, H, W) "
            "with one mean and std for each channel; take all three from the same PairSet"
        )
    scale, shift = torch.tensor([std, mean], dtype=torch.float32).view(2, 1, -1, 1, 1)
    pixels = (images.detach().cpu().float() * scale + shift).mul(255).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def data_uri(image: np.ndarray, *, max_side: int = MAX_SIDE) -> str:
    """Return a picture (H, W, 3) uint8 as a data URI: PNG up to `LOSSLESS_SIDE` pixels, JPEG of at
    most `max_side` above.
    """
    picture = Image.fromarray(image)
    buffer = io.BytesIO()
    if max(picture.size) <= LOSSLESS_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        # Without chroma subsampling, which would blur colours that change from pixel to pixel
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_contact_sheet(gallery: Gallery, target: Target, *, columns: int = SHEET_COLUMNS) -> None:
    """Write the gallery as one PNG, see `write_sheet`: a tile has the initial and the distilled
    picture.
    """
    tiles = []
    for row in gallery.rows:
        nearest = f"{row.similarity:.2f}  {row.nearest_sentence}"
        before, after = (row.initial_image, row.initial_caption), (row.distilled_image, nearest)
        tiles.append((before, after))
    title = f"{gallery.set}: initial pair (left), distilled image and nearest sentence (right)"
    write_sheet(title, tiles, target, columns=columns)


def write_sheet(
    title: str, tiles: Sequence[Tile], target: Target, *, columns: int = SHEET_COLUMNS
) -> None:
    """Write tiles of equally many pictures, each with its text below, as one PNG. Same input, same
    bytes.
    """
    font, bold = ImageFont.load_default(12), ImageFont.load_default(14)
    columns = max(1, min(columns, len(tiles)))
    lines = -(-len(tiles) // columns)
    step = SHEET_SIDE + 4
    wide, high = len(tiles[0]) * step - 4 + SHEET_GAP, SHEET_SIDE + SHEET_TEXT + SHEET_GAP
    head = 22 + SHEET_GAP
    sheet = Image.new("RGB", (columns * wide + SHEET_GAP, lines * high + head), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((SHEET_GAP, 8), title, INK, bold)
    for index, tile in enumerate(tiles):
        below, across = divmod(index, columns)
        x, y = SHEET_GAP + across * wide, head + below * high
        for image, text in tile:
            sheet.paste(_fit(image), (x, y))
            place = (x, y + SHEET_SIDE + 3)
            draw.multiline_text(place, _wrap(text, font), INK, font, spacing=2)
            x += step
    sheet.save(target, "PNG")


def _fit(image: np.ndarray) -> Image.Image:
    # Small pictures keep their pixels as squares; large ones are smoothed
    is_small = max(image.shape[:2]) <= LOSSLESS_SIDE
    how = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize((SHEET_SIDE, SHEET_SIDE), how)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return `text` broken at spaces into at most four lines no wider than one picture; what does
    not fit ends in dots.
    """
    lines = [""]
    # A line holds at most as many letters as its pixels
    for word in text.lstrip()[: SHEET_SIDE * SHEET_LINES].split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= SHEET_SIDE or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > SHEET_LINES:
        lines[SHEET_LINES - 1] += " ..."
    return "\n".join(_cut(line, font) for line in lines[:SHEET_LINES])


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return `line`, or as much of its beginning as fits the width of one picture with dots after
    it.
    """
    if font.getlength(line) <= SHEET_SIDE:
        return line
    while font.getlength(line + "...") > SHEET_SIDE:
        line = line[:-1]
    return line.rstrip() + "..."
