"""Real image-caption pairs of anybody: a folder of pictures beside .txt files, or a table.

Each caption of a picture makes a pair with it. The user states the text encoder, and whether
pictures are resized. Files that make no pair are left out and counted. A picture, caption or row
that cannot be used is refused, all of them in one message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.core.data.images import decode
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.foundations.records import ImageCaptions
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.selection.real_bytes import jpeg_bytes
from tasks.core.training.pair_set import PairSet
from tasks.device import choose_device
from tasks.exchange.pair_rows import (
    DELIMITERS,
    noting,
    read_delimited,
    read_folder,
    read_parquet,
)
from tasks.exchange.pictures import to_images
from tasks.exchange.published import Stated
from tasks.progress import reporter
from tasks.settings.params import Params
from tasks.shared_pictures import digest_of
from tasks.store.artifacts import canonical_digest

NAMED = 1000  # of what cannot be used: a wrong column would name each row of a large table
LEFT_OUT, SOURCE, CAPTIONS = "left_out", "source", "captions"  # of the provenance


def read_pairs(
    path: Path,
    stated: Stated,
    params: Params,
    encoder: ImageEncoder,
    held_out: Mapping[str, tuple[str, str]],
) -> PairSet:
    """Return the pairs as students of the profile see them.

    Its provenance has the captions, what was left out by reason, and a digest of all that was read.

    Args:
        encoder: has the normalisation.
        held_out: {digest: (split, name)} of the pictures that students are scored on.

    Raises:
        ValueError: something is not stated; the number of pairs is no budget; a picture, caption or
            row cannot be used, or students are scored on a picture.
    """
    _check_stated(path, stated, params)
    left_out, refused = LeftOut(0.0, str(path)), list[ValueError]()
    if path.is_dir():
        found = read_folder(path, left_out, refused)
    else:
        read = read_delimited if path.suffix in DELIMITERS else read_parquet
        found = read(path, str(stated.picture_column), str(stated.caption_column), refused)
    rows = list(found)
    captions = [caption for row in rows for caption in row.captions]
    budgets = params.general.budgets
    # Before pictures are decoded: a folder may hold a whole dataset
    if not refused and len(captions) not in budgets:
        raise ValueError(
            f"{path}: received {len(captions)} pairs{_told(left_out)}; allowed is a size of "
            f"`budgets` ({', '.join(map(str, budgets))}), so that random selection of that size is "
            "beside it; change `budgets` of the profile, or the number of captions"
        )
    pictures, num_bytes = [], sum(len(caption.encode()) for caption in captions)
    for row in rows:
        with noting(refused):
            picture = _decoded(row, stated, params)
            _check_trained_on(row, held_out.get(digest_of(picture)))
            # After the first refusal pictures are only checked: the set is not made any more
            if not refused:
                pictures += [picture] * len(row.captions)
                num_bytes += jpeg_bytes(picture)  # kept once, however many captions it has
    if refused:
        named = [f"\n  {error}" for error in refused[:NAMED]]
        more = len(refused) - len(named)
        raise ValueError(
            f"{path}: received {len(refused)} pictures, captions or rows that cannot be used, "
            f"allowed is none; repair or remove them:{''.join(named)}"
            + (f"\n  and {more} more" if more else "")
        )
    text = params.text_encoder
    report = reporter(f"import captions by {text.label}")
    embeds = text.module.embed(text.config, captions, device=choose_device(), progress=report)
    # `SOURCE` stands for files that may change or go: it is part of the key of the import
    provenance = {
        CAPTIONS: captions,
        LEFT_OUT: left_out.facts(),
        SOURCE: canonical_digest([captions, [digest_of(picture) for picture in pictures]]),
    }
    shape = len(pictures), params.prepare_data.image_size
    images = to_images(pictures, shape, encoder.mean, encoder.std)
    pairs = PairSet(images, embeds, encoder.mean, encoder.std, provenance=provenance)
    return replace(pairs, real_bytes=num_bytes)


def _check_stated(path: Path, stated: Stated, params: Params) -> None:
    columns = () if path.is_dir() else ("picture_column", "caption_column")
    stated.only("real pairs", "text_encoder", "resize", *columns)
    if stated.text_encoder != params.text_encoder.label:
        raise ValueError(
            f"--text-encoder: received {stated.text_encoder!r}; allowed is "
            f"{params.text_encoder.label!r}, of the profile, which the captions go through; state "
            "it, or change embed_captions"
        )
    if columns and None in (stated.picture_column, stated.caption_column):
        raise ValueError(
            f"--picture-column, --caption-column: received {stated.picture_column!r}, "
            f"{stated.caption_column!r}; needed for the table {path}; state both"
        )


def _decoded(row: ImageCaptions, stated: Stated, params: Params) -> np.ndarray:
    image, where, side = row.load(), str(row.load), params.prepare_data.image_size
    if image.size != (side, side) and not stated.resize:
        raise Unusable(
            where,
            "picture of another size",
            f"received {image.width} x {image.height} pixels; allowed is {side} x {side}, of "
            "prepare_data.image_size; state --resize to have it brought there as prepare_data does",
        )
    limit = params.prepare_data.max_pixels
    return decode(image, where, image_size=side, max_pixels=limit)


def _check_trained_on(row: ImageCaptions, place: tuple[str, str] | None) -> None:
    """Refuse a picture that students are scored on, as a list of ids does."""
    if place is not None:
        split, name = place
        raise Unusable(
            str(row.load),
            f"picture of {split}",
            f"received the picture {name!r} of {split}, which students are scored on; allowed are "
            "pictures of train, and those that the profile does not have; remove it",
        )


def _told(left_out: LeftOut) -> str:
    """Return what was left out, as the end of a sentence; "" where nothing was."""
    found = left_out.facts().items()
    told = [f"{tally['count']} x {reason}, first {tally['first'][0]}" for reason, tally in found]
    return f" (left out: {'; '.join(told)})" if told else ""
