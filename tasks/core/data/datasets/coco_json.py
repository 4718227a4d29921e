"""Reads the json of COCO captions: `captions_train2017.json` and its like, `{"images": [{id,
file_name}], "annotations": [{image_id, caption}]}`.

Source: X. Chen et al., Microsoft COCO Captions (arXiv 1504.00325). Other datasets use the layout
too. Images are in the order of `images`, their captions in the order of `annotations`. COCO gives
no captions of its test images. So name a file under two splits and state `shares`. Or take
Karpathy's json with the reader `karpathy`: published tables have its splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.core.data.annotations import (
    Annotation,
    annotation_path,
    check_caption,
    file_digest,
    member,
    read_json,
    text_digest,
)
from tasks.core.data.image_files import attach_images, content_digests
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.data.shares import SharedFiles, Shares, check_shares, divided
from tasks.core.data.split_files import files_of_splits, split_digests
from tasks.core.foundations.records import ImageCaptions

_UNUSED_KEYS = frozenset({"coco_url", "flickr_url", "license", "licenses", "date_captured"})


@dataclass(frozen=True, kw_only=True)
class Config(SharedFiles):
    """Where the json files lie, see `SharedFiles`.

    Attributes:
        images: names or globs of the folders and tars inside `path` that hold the pictures.
    """

    images: list[str]


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Return the examples in the order of files and entries.

    Args:
        left_out: takes the entries that cannot be used.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed.
    """
    annotations = read_annotations(_paths(config), config.shares, left_out)
    return attach_images(annotations, config.path, config.images, left_out)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the names, splits and contents of the json files, and of the names and
    contents of the picture files. It does not depend on `path`.
    """
    return text_digest(
        {
            "annotations": split_digests(config.path, _paths(config), digest_of),
            "images": content_digests(config.path, config.images, digest_of),
        }
    )


def read_annotations(
    paths: Mapping[Path, tuple[str, ...]], shares: Shares | None, left_out: LeftOut
) -> list[Annotation]:
    """Return the split and the captions of each image in the json files {path: splits}; the
    pictures need not be there.
    """
    annotations: list[Annotation] = []
    named: list[tuple[str, tuple[str, ...]]] = []
    for path, splits in paths.items():
        for annotation in _read(path, left_out):
            annotations.append(annotation)
            named.append((annotation.name, splits))
    found = zip(annotations, divided(named, shares), strict=True)
    return [replace(annotation, split=split) for annotation, split in found]


def _paths(config: Config) -> dict[Path, tuple[str, ...]]:
    paths = files_of_splits(config)
    for path, splits in paths.items():
        # Refuses a file that is too large to be read at once
        annotation_path(config.path, path.relative_to(config.path).as_posix(), splits[0])
    check_shares(paths, paths, config.shares)
    return paths


def _read(path: Path, left_out: LeftOut) -> list[Annotation]:
    """Return the images of a file with their captions, without a split."""
    content = read_json(path, left_out, ignored_keys=_UNUSED_KEYS)
    entries = member(content, "images", list, str(path))
    rows = member(content, "annotations", list, str(path))
    if rows and isinstance(rows[0], dict) and "bbox" in rows[0] and "caption" not in rows[0]:
        raise ValueError(
            f"{path}: its annotations are boxes, and have no captions; received the members "
            f"{', '.join(sorted(rows[0]))}; take captions_*.json of the same archive"
        )
    # `places` also has images with a bad name, so that their captions are not refused once more as
    # captions of an unknown image
    places: dict[int | str, str] = {}
    names: dict[int | str, str] = {}
    for position, entry in enumerate(entries):
        where = f"{path}: images[{position}]"
        with left_out.catching():
            image_id = _id(entry, "id", where)
            if image_id in places:
                raise Unusable(
                    where,
                    "image id that is there twice",
                    f"received the id {image_id!r} a second time, first at {places[image_id]}; "
                    "allowed is once in a file; repair the file",
                )
            places[image_id] = where
            names[image_id] = member(entry, "file_name", str, where)
    captions = _captions(rows, path, places, left_out)
    found = []
    for image_id, name in names.items():
        if image_id not in captions:
            left_out.refuse(
                Unusable(
                    places[image_id],
                    "image without captions",
                    f"no entry of `annotations` has the image_id {image_id!r}; add a caption or "
                    "remove the image",
                )
            )
        # An empty list: all its captions were refused, and the image is not refused once more
        elif captions[image_id]:
            found.append(Annotation(name, "", tuple(captions[image_id]), places[image_id]))
    return found


def _captions(
    rows: list[Any], path: Path, places: Mapping[int | str, str], left_out: LeftOut
) -> dict[int | str, list[str]]:
    """Return {image id: captions}. The list is empty for an image that has only bad captions."""
    captions: dict[int | str, list[str]] = {}
    for position, row in enumerate(rows):
        where = f"{path}: annotations[{position}]"
        with left_out.catching():
            image_id = _id(row, "image_id", where)
            if image_id not in places:
                raise Unusable(
                    f"{where}.image_id",
                    "caption of an unknown image",
                    f"received {image_id!r}, which no entry of `images` has; allowed is the id of "
                    "one; repair the file",
                )
            texts = captions.setdefault(image_id, [])
            texts.append(check_caption(member(row, "caption", str, where), f"{where}.caption"))
    return captions


def _id(entry: Any, key: str, where: str) -> int | str:
    """Return an id, a whole number or a text."""
    # Python counts true as a whole number, which is no id
    value = member(entry, key, object, where)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Unusable(
            f"{where}.{key}",
            "malformed entry",
            f"received {type(value).__name__} {ascii(value)[:60]}, allowed is a whole number or "
            "text; repair the file",
        )
    return value
