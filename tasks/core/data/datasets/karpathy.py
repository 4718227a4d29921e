"""Reads Flickr8k, Flickr30K and COCO with Karpathy's splits: one json `{"images": [{filename,
filepath?, split, sentences}]}`.

Source: A. Karpathy, L. Fei-Fei, Deep Visual-Semantic Alignments (CVPR 2015). The captions are
`sentences[].raw`, unchanged. An image of COCO is named `<filepath>/<filename>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.core.data.annotations import (
    Annotation,
    annotation_path,
    check_captions,
    check_split,
    file_digest,
    member,
    read_json,
    text_digest,
)
from tasks.core.data.file_kinds import kind_of_annotations
from tasks.core.data.image_files import attach_images, content_digests
from tasks.core.data.left_out import LeftOut
from tasks.core.foundations.records import SPLITS, ImageCaptions
from tasks.core.foundations.section import Section

# Long or needless members, left out while parsing to save memory
_UNUSED_KEYS = frozenset({"tokens", "sentids", "sentid", "imgid", "cocoid"})


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Where the raw data lie.

    Attributes:
        path: the dataset folder.
        annotations: the json inside it, `.json` or `.json.gz`.
        images: names or globs of the folders and tars inside it that hold the pictures.
        restval_is_train: whether images of COCO's split `restval` belong to train. Otherwise they
            are left out.
    """

    path: str
    annotations: str
    images: list[str]
    restval_is_train: bool


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Return the examples in the order of the json.

    Args:
        left_out: takes the entries that cannot be used.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed.
    """
    path = annotation_path(config.path, config.annotations, "annotations")
    annotations = read_annotations(
        path, restval_is_train=config.restval_is_train, left_out=left_out
    )
    return attach_images(annotations, config.path, config.images, left_out)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the annotation file, and of the names and contents of the picture files.
    It does not depend on `path`.
    """
    path = annotation_path(config.path, config.annotations, "annotations")
    return text_digest(
        {
            "annotations": digest_of(path),
            "images": content_digests(config.path, config.images, digest_of),
        }
    )


def read_annotations(path: Path, *, restval_is_train: bool, left_out: LeftOut) -> list[Annotation]:
    """Return the split and the captions of each image; the pictures need not be there."""
    content = read_json(path, left_out, ignored_keys=_UNUSED_KEYS)
    # COCO's own json has `images` too, and would fail later with a worse message
    if isinstance(content, dict) and "annotations" in content:
        raise ValueError(f"{path}: no json of Karpathy{kind_of_annotations(content)}")
    annotations = []
    for position, entry in enumerate(member(content, "images", list, str(path))):
        where = f"{path}: images[{position}]"
        with left_out.catching():
            annotation = _annotation(entry, where)
            if annotation.split != "restval":
                annotations.append(annotation)
            elif restval_is_train:
                annotations.append(replace(annotation, split="train"))
            else:
                left_out.mention("image of restval", where)
    return annotations


def _annotation(entry: Any, where: str) -> Annotation:
    name = member(entry, "filename", str, where)
    if "filepath" in entry:
        name = f"{member(entry, 'filepath', str, where)}/{name}"
    split = check_split(
        member(entry, "split", str, where), f"{where}.split", allowed=(*SPLITS, "restval")
    )
    sentences = member(entry, "sentences", list, where)
    texts = [
        member(sentence, "raw", str, f"{where}.sentences[{position}]")
        for position, sentence in enumerate(sentences)
    ]
    return Annotation(name, split, check_captions(texts, f"{where}.sentences"), where)
