"""Before and after: the real pair a synthetic pair began as, beside its distilled image and nearest
training sentence.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class GalleryRow:
    """One synthetic pair.

    Attributes:
        initial_image, distilled_image: (H, W, 3) uint8.
        initial_caption: the caption it began as.
        nearest_sentence: the training caption whose embedding has the largest cosine with the
            distilled one.
        similarity: that cosine, -1..1.
    """

    initial_image: np.ndarray
    distilled_image: np.ndarray
    initial_caption: str
    nearest_sentence: str
    similarity: float

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


@dataclass(frozen=True)
class Pair:
    """A gallery row with both pictures as data URIs, ready for the page."""

    row: GalleryRow
    initial_uri: str
    distilled_uri: str


@dataclass(frozen=True)
class ShownGallery:
    """The pairs of one set that the page shows: the first ones of `num_rows`."""

    set: str
    pairs: tuple[Pair, ...]
    num_rows: int


def fit_galleries(galleries: Sequence[Gallery], max_bytes: int) -> tuple[ShownGallery, ...]:
    """Return each gallery with as many of its first pairs, at most `MAX_ROWS`, as keep all pictures
    within `max_bytes` (at least one).
    """
    all_pairs = [tuple(map(_pair, one.rows[:MAX_ROWS])) for one in galleries]
    limit = MAX_ROWS
    # All galleries are cut alike, so that they show the same number of pairs
    while limit > 1 and _picture_bytes(all_pairs, limit) > max_bytes:
        limit -= 1
    shown = []
    for one, pairs in zip(galleries, all_pairs, strict=True):
        shown.append(ShownGallery(one.set, pairs[:limit], len(one.rows)))
    return tuple(shown)


def _pair(row: GalleryRow) -> Pair:
    return Pair(row, data_uri(row.initial_image), data_uri(row.distilled_image))


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
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_contact_sheet(gallery: Gallery, path: Path, *, columns: int = SHEET_COLUMNS) -> None:
    """Write the gallery as one PNG: each tile has the initial and the distilled picture, captions
    below. Same input, same bytes.
    """
    font, bold = ImageFont.load_default(12), ImageFont.load_default(14)
    columns = max(1, min(columns, len(gallery.rows)))
    lines = -(-len(gallery.rows) // columns)
    wide, high = 2 * SHEET_SIDE + 4 + SHEET_GAP, SHEET_SIDE + SHEET_TEXT + SHEET_GAP
    head = 22 + SHEET_GAP
    sheet = Image.new("RGB", (columns * wide + SHEET_GAP, lines * high + head), "white")
    draw = ImageDraw.Draw(sheet)
    title = f"{gallery.set}: initial pair (left), distilled image and nearest sentence (right)"
    draw.text((SHEET_GAP, 8), title, INK, bold)
    for index, row in enumerate(gallery.rows):
        below, across = divmod(index, columns)
        x, y = SHEET_GAP + across * wide, head + below * high
        nearest = f"{row.similarity:.2f}  {row.nearest_sentence}"
        pairs = ((row.initial_image, row.initial_caption), (row.distilled_image, nearest))
        for image, text in pairs:
            sheet.paste(_fit(image), (x, y))
            place = (x, y + SHEET_SIDE + 3)
            draw.multiline_text(place, _wrap(text, font), INK, font, spacing=2)
            x += SHEET_SIDE + 4
    sheet.save(path, "PNG")


def _picture_bytes(galleries: Iterable[tuple[Pair, ...]], limit: int) -> int:
    total = 0
    for pairs in galleries:
        total += sum(len(pair.initial_uri) + len(pair.distilled_uri) for pair in pairs[:limit])
    return total


def _fit(image: np.ndarray) -> Image.Image:
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
