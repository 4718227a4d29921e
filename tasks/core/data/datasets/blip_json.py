"""The retrieval json files of ALBEF and BLIP: one row a caption in train, one row an image in val
and test.

Source: J. Li et al., ALBEF (NeurIPS 2021) and BLIP (ICML 2022). Train rows are `{image, caption:
str, image_id}`, grouped here by `image` in order of first appearance; val and test rows are
`{image, caption: [str]}`. `image` may have subfolders (`val2014/COCO_val2014_000000391895.jpg`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def examples(config: Config) -> Iterable[ImageCaptions]:
    """Return the examples of train, val and test in the order of their files.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed; the message names it and the
            field.
    """
    return attach_images(read_annotations(_paths(config)), config.path, config.images)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the three json files and of name and content of the picture files;
    `path` does not enter.
    """
    digests = {split: digest_of(path) for split, path in _paths(config).items()}
    return text_digest(
        {"annotations": digests, "images": content_digests(config.path, config.images, digest_of)}
    )


def read_annotations(paths: dict[str, Path]) -> list[Annotation]:
    """Return what the json files {split: path} say about each image; the pictures need not be
    there.
    """
    return [
        *_train(paths["train"]),
        *_evaluation(paths["val"], "val"),
        *_evaluation(paths["test"], "test"),
    ]


def _paths(config: Config) -> dict[str, Path]:
    return {split: annotation_path(config.path, getattr(config, split), split) for split in SPLITS}


def _train(path: Path) -> list[Annotation]:
    captions: dict[str, list[str]] = {}
    first: dict[str, tuple[str, Any]] = {}
    for position, row in enumerate(of_type(read_json(path), list, str(path))):
        where = f"{path}: [{position}]"
        name = member(row, "image", str, where)
        image_id = row.get("image_id")
        seen_at, seen_id = first.setdefault(name, (where, image_id))
        if image_id != seen_id:
            raise ValueError(
                f"{where}.image_id: received {image_id!r} for image {name!r}, which has "
                f"{seen_id!r} at {seen_at}; "
                "allowed is one image_id for an image; repair the file"
            )
        captions.setdefault(name, []).append(
            check_caption(member(row, "caption", str, where), f"{where}.caption")
        )
    return [
        Annotation(name, "train", tuple(texts), first[name][0]) for name, texts in captions.items()
    ]


def _evaluation(path: Path, split: str) -> list[Annotation]:
    annotations = []
    for position, row in enumerate(of_type(read_json(path), list, str(path))):
        where = f"{path}: [{position}]"
        texts = member(row, "caption", list, where)
        annotations.append(
            Annotation(
                member(row, "image", str, where),
                split,
                check_captions(texts, f"{where}.caption"),
                where,
            )
        )
    return annotations
