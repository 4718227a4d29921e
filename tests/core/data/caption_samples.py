"""Five pictures with ragged captions in three splits, and the bytes that Karpathy's reader prepares
from them.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from tasks.core.data.datasets import karpathy
from tasks.core.data.left_out import LeftOut
from tasks.core.data.preparation import prepare
from tasks.core.foundations.records import ImageCaptions

FILES = ("images.safetensors", "captions.parquet", "images.parquet")


@dataclass(frozen=True)
class Sample:
    """One picture as a file: its split, its name, its bytes and its captions."""

    split: str
    name: str
    data: bytes
    captions: tuple[str, ...]


def picture(number: int, kind: str = "JPEG") -> bytes:
    """A picture of noise that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (11 + number, 17, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


SAMPLES = (
    Sample("train", "b.jpg", picture(0), ("A dog runs .", "two dogs")),
    Sample("train", "a.png", picture(1, "PNG"), ("a caf\u00e9  with  spaces",)),
    Sample("train", "sub/c.webp", picture(2, "WEBP"), ("one", "two", "three")),
    Sample("val", "v.JPEG", picture(3), ("a | b", "c\td")),
    Sample("test", "t.jpg", picture(4), ("the last",)),
)


def of_split(split: str) -> list[Sample]:
    """The samples of one split."""
    return [sample for sample in SAMPLES if sample.split == split]


def read(reader: ModuleType, config: object, max_left_out: float = 0.0) -> list[ImageCaptions]:
    """The examples of a reader, after what it left out was judged."""
    left_out = LeftOut(max_left_out)
    examples = list(reader.examples(config, left_out))
    left_out.check(len(examples))
    return examples


def prepared(
    reader: ModuleType,
    config: object,
    folder: Path,
    files: tuple[str, ...] = FILES,
    max_left_out: float = 0.0,
) -> dict[str, bytes]:
    """Prepare at 12 px in a new folder; return the bytes of its files."""
    folder.mkdir()
    left_out = LeftOut(max_left_out)
    examples = reader.examples(config, left_out)
    prepare(examples, folder, image_size=12, max_pixels=1_000_000, left_out=left_out)
    return {name: (folder / name).read_bytes() for name in files}


def through_karpathy(root: Path, files: tuple[str, ...] = FILES) -> dict[str, bytes]:
    """The same samples as files and a Karpathy json, read and prepared; an image is named
    `<split>/<name>`.
    """
    entries = []
    for sample in SAMPLES:
        place = root / "raw" / "images" / sample.split / sample.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(sample.data)
        sentences = [{"raw": text} for text in sample.captions]
        entries.append(
            {
                "filepath": sample.split,
                "filename": sample.name,
                "split": sample.split,
                "sentences": sentences,
            }
        )
    (root / "raw" / "dataset.json").write_text(json.dumps({"images": entries}))
    config = karpathy.Config(
        path=str(root / "raw"),
        annotations="dataset.json",
        images=["images"],
        restval_is_train=False,
    )
    return prepared(karpathy, config, root / "prepared", files)
