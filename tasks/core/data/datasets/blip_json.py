"""Reads the retrieval json files of ALBEF and BLIP: one row a caption in train, one row an image in
val and test.

Source: J. Li et al., ALBEF (NeurIPS 2021) and BLIP (ICML 2022). Train rows are `{image, caption:
str, image_id}`. They are grouped by `image`, in the order in which images first appear. Rows of val
and test are `{image, caption: [str]}`. `image` may have subfolders
(`val2014/COCO_val2014_000000391895.jpg`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.data.annotations import (
    Annotation,
    annotation_path,
    check_caption,
    check_captions,
    file_digest,
    member,
    of_type,
    read_json,
    text_digest,
)
from tasks.core.data.image_files import attach_images, content_digests
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.foundations.records import SPLITS, ImageCaptions
from tasks.core.foundations.section import Section


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Where the raw data lie.

    Attributes:
        path: the dataset folder.
        train, val, test: the json files inside it, `.json` or `.json.gz`.
        images: names or globs of the folders and tars inside it that hold the pictures.
    """

    path: str
    train: str
    val: str
    test: str
    images: list[str]


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Return the examples of train, val and test in the order of their files.

    Args:
        left_out: takes the rows that cannot be used.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed.
    """
    annotations = read_annotations(_paths(config), left_out)
    return attach_images(annotations, config.path, config.images, left_out)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the three json files, and of the names and contents of the picture
    files. It does not depend on `path`.
    """
    digests = {split: digest_of(path) for split, path in _paths(config).items()}
    return text_digest(
        {"annotations": digests, "images": content_digests(config.path, config.images, digest_of)}
    )


def read_annotations(paths: dict[str, Path], left_out: LeftOut) -> list[Annotation]:
    """Return the captions of each image in the json files {split: path}; the pictures need not be
    there.
    """
    return [
        *_train(paths["train"], left_out),
        *_evaluation(paths["val"], "val", left_out),
        *_evaluation(paths["test"], "test", left_out),
    ]


def _paths(config: Config) -> dict[str, Path]:
    return {split: annotation_path(config.path, getattr(config, split), split) for split in SPLITS}


def _train(path: Path, left_out: LeftOut) -> list[Annotation]:
    captions: dict[str, list[str]] = {}
    # First row and id of each image. Two ids under one name are two images that would be mixed.
    first: dict[str, tuple[str, Any]] = {}
    for where, row in _rows(path, left_out):
        with left_out.catching():
            name = member(row, "image", str, where)
            caption = check_caption(member(row, "caption", str, where), f"{where}.caption")
            image_id = row.get("image_id")
            seen_at, seen_id = first.setdefault(name, (where, image_id))
            if image_id != seen_id:
                raise Unusable(
                    f"{where}.image_id",
                    "several ids of one image",
                    f"received {image_id!r} for image {name!r}, which has {seen_id!r} at "
                    f"{seen_at}; allowed is one image_id for an image; repair the file",
                )
            captions.setdefault(name, []).append(caption)
    return [
        Annotation(name, "train", tuple(texts), first[name][0]) for name, texts in captions.items()
    ]


def _evaluation(path: Path, split: str, left_out: LeftOut) -> list[Annotation]:
    annotations = []
    for where, row in _rows(path, left_out):
        with left_out.catching():
            captions = check_captions(member(row, "caption", list, where), f"{where}.caption")
            annotations.append(Annotation(member(row, "image", str, where), split, captions, where))
    return annotations


def _rows(path: Path, left_out: LeftOut) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of each row."""
    for position, row in enumerate(of_type(read_json(path, left_out), list, str(path))):
        yield f"{path}: [{position}]", row
