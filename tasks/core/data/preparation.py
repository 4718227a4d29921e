"""Writes a prepared dataset from examples: all pictures at one size in one file, and beside it the
splits and captions.

Files: `images.safetensors` (`images`, (N, S, S, 3) uint8), `images.parquet` (name, split) and
`captions.parquet` (image_idx, text). Images stand in the order train, val, test;
`storage.load_split` reads them.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.data.annotations import check_captions, check_name, check_split
from tasks.core.data.image_files import StoredImage
from tasks.core.data.images import decode
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.foundations.file_names import CAPTIONS, IMAGES, NAMES
from tasks.core.foundations.records import SPLITS, ImageCaptions

# Threads help, because JPEG decoding and resampling release the interpreter lock. The window bounds
# the number of pictures in memory.
_NUM_THREADS, _WINDOW = 2, 16


def prepare(
    examples: Iterable[ImageCaptions],
    work: Path,
    *,
    image_size: int,
    max_pixels: int,
    left_out: LeftOut,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the prepared dataset into the folder `work`; equal examples give equal bytes.

    The disk is checked before the first picture is opened. All examples and pictures are read
    before `left_out` judges how many cannot be used, so that one run names every fault. Pictures go
    to the file one by one: memory holds the names, the captions and at most `_WINDOW` pictures.

    Args:
        examples: in any order; each split keeps its order.
        work: an existing folder; when anything fails, the files written so far are removed from it.
        image_size: side of the stored pictures, pixels.
        max_pixels: largest picture that is decoded, pixels.
        left_out: has counted what the reader refused, and takes what is refused here.
        progress: called as progress(done, total) in images, at the start and at least at every
            percent.

    Returns:
        Facts: `image_size`, `num_images` and `num_captions` by split, `captions_per_image` with
            `min` and `max`, `left_out` as in `LeftOut.facts`.

    Raises:
        ValueError: more examples and pictures are bad than `left_out` allows; the message names
            file and field.
        OSError: too little disk space.
    """
    rows = check_examples(examples, left_out)
    check_free_space(required_bytes(rows, image_size), shutil.disk_usage(work).free, work)
    try:
        # Tables come last, because a picture that cannot be used has no row in them
        rows = _write_images(
            rows, work / IMAGES, image_size, max_pixels, left_out, progress or _ignore
        )
        left_out.check(len(rows))
        _check_splits(rows)
        _write_tables(rows, work)
    # Also when the user stops the run: nothing half-written stays
    except BaseException:
        for name in (IMAGES, NAMES, CAPTIONS):
            (work / name).unlink(missing_ok=True)
        raise
    counts = [len(row.captions) for row in rows]
    num_images, num_captions = Counter[str](), Counter[str]()
    for row, count in zip(rows, counts, strict=True):
        num_images[row.split] += 1
        num_captions[row.split] += count
    return {
        "image_size": image_size,
        "num_images": dict(num_images),
        "num_captions": dict(num_captions),
        "captions_per_image": {"min": min(counts), "max": max(counts)},
        "left_out": left_out.facts(),
    }


def check_examples(examples: Iterable[ImageCaptions], left_out: LeftOut) -> list[ImageCaptions]:
    """Return the examples sorted by split (train, val, test) after checking all but the pictures.

    Args:
        left_out: has counted what the reader refused. It takes examples with a bad or repeated
            name, an unknown split, no caption or an empty one.

    Raises:
        ValueError: a split without images.
    """
    by_split: dict[str, list[ImageCaptions]] = {split: [] for split in SPLITS}
    places: dict[str, str] = {}
    for position, example in enumerate(examples):
        where = _place(example, f"example {position}")
        with left_out.catching():
            name = check_name(example.name, f"{where}: name")
            check_split(example.split, f"{where}: split of {name!r}")
            check_captions(example.captions, f"{where}: captions of {name!r}")
            first = places.setdefault(name, where)
            if first != where:
                raise Unusable(
                    where,
                    "image name that is there twice",
                    f"received the image name {name!r} a second time, first at {first}; allowed "
                    "is once in all splits together; remove one of the two",
                )
            by_split[example.split].append(example)
    rows = list(itertools.chain.from_iterable(by_split.values()))
    # A split may be empty because its examples were refused: then `check` says so first
    if not all(by_split.values()):
        left_out.check(len(rows))
    _check_splits(rows)
    return rows


def _check_splits(rows: Sequence[ImageCaptions]) -> None:
    num_images = Counter(dict.fromkeys(SPLITS, 0))
    num_images.update(row.split for row in rows)
    for split, count in num_images.items():
        if count == 0:
            received = ", ".join(f"{name} {number}" for name, number in num_images.items())
            raise ValueError(
                f"split {split!r} has no images (received {received}), allowed is at least one in "
                "each; complete the annotation files or the options of the dataset in params.yaml"
            )


def required_bytes(rows: Sequence[ImageCaptions], image_size: int) -> int:
    """Return an upper estimate of the bytes that preparing `rows` writes."""
    # Per text 16 bytes for its place in a table, and 64 KiB in all for headers of files
    needed = len(rows) * image_size * image_size * 3 + 65_536
    for row in rows:
        for text in (row.name, *row.captions):
            needed += len(text.encode()) + 16
    return needed


def check_free_space(needed: int, free: int, folder: Path) -> None:
    """Raise OSError when the bytes `needed` are more than the bytes `free` where `folder` lies."""
    if needed > free:
        raise OSError(
            f"too little disk space for {folder}: {needed:,} bytes are needed, {free:,} are "
            "free; free some, move the data folder, "
            "or lower prepare_data.image_size in params.yaml"
        )


def _place(example: ImageCaptions, otherwise: str) -> str:
    return example.load.where if isinstance(example.load, StoredImage) else otherwise


def _write_tables(rows: Sequence[ImageCaptions], work: Path) -> None:
    names, splits, image_idx = [], [], []
    texts: list[str] = []
    for index, row in enumerate(rows):
        names.append(row.name)
        splits.append(row.split)
        texts += row.captions
        image_idx += [index] * len(row.captions)
    pq.write_table(pa.table({"name": names, "split": splits}), work / NAMES)
    pq.write_table(pa.table({"image_idx": image_idx, "text": texts}), work / CAPTIONS)


def _write_images(
    rows: Sequence[ImageCaptions],
    path: Path,
    image_size: int,
    max_pixels: int,
    left_out: LeftOut,
    progress: Callable[[int, int], None],
) -> list[ImageCaptions]:
    """Write the safetensors file of the pictures, and return the rows with a usable picture.

    The header is written by hand, and the pictures follow one by one. A writable memory map would
    do too, but its pages count as memory of this process, N x S x S x 3 bytes.
    """
    total = len(rows)
    used: list[ImageCaptions] = []
    progress(0, total)
    header = tensor_header("images", (total, image_size, image_size, 3))
    with path.open("wb") as handle:
        handle.write(header)
        for done, (row, decoded) in enumerate(_decoded(rows, image_size, max_pixels), start=1):
            # `result` raises what was wrong with the picture, before anything of it is written
            with left_out.catching():
                handle.write(decoded.result().data)
                used.append(row)
            if done * 100 // total != (done - 1) * 100 // total:
                progress(done, total)
        # The true number of pictures is known only here. Spaces keep the header as long as before,
        # so that the pictures stay in place.
        handle.seek(0)
        shape = (len(used), image_size, image_size, 3)
        handle.write(tensor_header("images", shape, len(header)))
    return used


def tensor_header(name: str, shape: tuple[int, ...], min_bytes: int = 0) -> bytes:
    """Return the beginning of a safetensors file with one uint8 tensor: the length of the JSON (8
    bytes, little endian) and the JSON.

    Spaces pad the JSON to a multiple of 8 bytes, as the format asks, so that the data are aligned.
    They also pad the result to at least `min_bytes`.
    """
    num_bytes = int(np.prod(shape, dtype=np.int64))
    text = json.dumps(
        {name: {"dtype": "U8", "shape": list(shape), "data_offsets": [0, num_bytes]}},
        separators=(",", ":"),
    ).encode()
    text += b" " * (-len(text) % 8)
    text = text.ljust(min_bytes - 8)
    return struct.pack("<Q", len(text)) + text


def _decoded(
    rows: Sequence[ImageCaptions], image_size: int, max_pixels: int
) -> Iterator[tuple[ImageCaptions, Future[np.ndarray]]]:
    """Yield each row, in order, with a future of its (S, S, 3) uint8 picture or of the fault in it.

    Pictures are opened in this thread, as `open_image` has to be, and decoded in the others.
    """
    window: deque[tuple[ImageCaptions, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(_NUM_THREADS, "decode") as pool:
        try:
            for row in rows:
                window.append((row, _submitted(pool, row, image_size, max_pixels)))
                if len(window) == _WINDOW:
                    yield window.popleft()
            while window:
                yield window.popleft()
        finally:
            for _, future in window:
                future.cancel()


def _submitted(
    pool: ThreadPoolExecutor, row: ImageCaptions, image_size: int, max_pixels: int
) -> Future[np.ndarray]:
    source = str(row.load) if isinstance(row.load, StoredImage) else f"image {row.name!r}"
    try:
        image = row.load()
    except Unusable as error:
        # A future too, so that the fault is raised when it is the turn of this row
        failed: Future[np.ndarray] = Future()
        failed.set_exception(error)
        return failed
    return pool.submit(decode, image, source, image_size=image_size, max_pixels=max_pixels)


def _ignore(done: int, total: int) -> None:
    """No progress is shown."""
