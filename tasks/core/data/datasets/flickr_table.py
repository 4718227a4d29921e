"""Flickr30K as its authors and Kaggle give it: a table with one row a caption, and a split beside
it.

Source: P. Young et al., From image descriptions to visual denotations (TACL 2014). The table is
either `results_20130124.token` (`name.jpg#0<tab>caption`) or `results.csv` (`image_name|
comment_number| comment` under a header). Images of the table that no split names are left out.

Stated repair: results.csv is known to hold a row without its second separator (`2199200615.jpg| 4
A dog runs ...`). Such a row, a number and text in one field, is read as number and text, with a
warning; any other malformed row is an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.core.data.annotations import (
    Annotation,
    annotation_path,
    check_caption,
    check_split,
    file_digest,
    member,
    read_json,
    read_lines,
    text_digest,
)
from tasks.core.data.image_files import attach_images, content_digests
from tasks.core.foundations.records import SPLITS, ImageCaptions
from tasks.core.foundations.section import Section

LOGGER = logging.getLogger(__name__)
_GLUED = re.compile(r"\s*(\d+)\s+(\S.*)")
_HEADER = ["image_name", "comment_number", "comment"]


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Where the raw data lie.

    Attributes:
        path: the dataset folder.
        table: the caption table inside it; `.csv` has `|` columns, any other ending is the token
            format.
        splits: one Karpathy json, or three text files of image names: train, val and test, in this
            order. A text file has one name a line, and `.jpg` may be left out.
        images: names or globs of the folders and tars inside it that hold the pictures.
    """

    path: str
    table: str
    splits: list[str]
    images: list[str]


def examples(config: Config) -> Iterable[ImageCaptions]:
    """Return the examples of train, val and test, each in the order of the split.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed; the message names it and the
            line.
    """
    table, *splits = _paths(config)
    return attach_images(read_annotations(table, splits), config.path, config.images)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of table, splits and of name and content of the picture files; `path` does
    not enter.
    """
    images = content_digests(config.path, config.images, digest_of)
    return text_digest(
        {"annotations": [digest_of(path) for path in _paths(config)], "images": images}
    )


def read_annotations(table: Path, splits: list[Path]) -> list[Annotation]:
    """Return what table and splits say about each image; the pictures need not be there."""
    captions: dict[str, dict[int, str]] = {}
    for where, name, number, text in _rows(table):
        texts = captions.setdefault(name, {})
        if number in texts:
            raise ValueError(
                f"{where}: comment {number} of image {name!r} is there twice, allowed is once; "
                "repair the file"
            )
        texts[number] = check_caption(text, f"{where} (comment)")
    named = _karpathy_names(splits[0]) if len(splits) == 1 else _listed_names(splits)
    annotations = []
    for where, listed, split in named:
        name = listed if listed in captions else f"{listed}.jpg"
        if name not in captions:
            raise ValueError(
                f"{where}: image {listed!r} has no captions in {table}; remove it from the split "
                "or replace the table"
            )
        annotations.append(
            Annotation(
                name,
                split,
                tuple(captions[name][number] for number in sorted(captions[name])),
                where,
            )
        )
    return annotations


def _paths(config: Config) -> list[Path]:
    if len(config.splits) not in (1, 3):
        raise ValueError(
            f"`splits` of the dataset: received {len(config.splits)} files, allowed is one "
            "Karpathy json or three lists of names "
            "(train, val, test); change it in params.yaml"
        )
    splits = [annotation_path(config.path, name, "splits") for name in config.splits]
    return [annotation_path(config.path, config.table, "table"), *splits]


def _rows(table: Path) -> Iterator[tuple[str, str, int, str]]:
    """Yield (where, image name, comment number, comment) of each row of the table."""
    parse = _csv_row if table.suffix == ".csv" else _token_row
    for number, line in read_lines(table):
        where = f"{table}: line {number}"
        if number == 1 and [part.strip() for part in line.split("|")] == _HEADER:
            continue
        name, comment, text = parse(line, where)
        if not comment.isascii() or not comment.isdigit():
            raise ValueError(
                f"{where} (comment number): received {comment!r}, allowed is a whole number; "
                "repair the line"
            )
        yield where, name, int(comment), text


def _csv_row(line: str, where: str) -> tuple[str, str, str]:
    parts = line.split("|", 2)
    glued = _GLUED.fullmatch(parts[1]) if len(parts) == 2 else None
    if glued:
        LOGGER.warning(
            "%s: the second separator is missing; read as comment %s, %r", where, glued[1], glued[2]
        )
        parts = [parts[0], glued[1], glued[2]]
    if len(parts) != 3:
        raise ValueError(
            f"{where}: received {line[:60]!r}, allowed is `image_name| comment_number| comment`; "
            "repair the line"
        )
    return parts[0].strip(), parts[1].strip(), parts[2].strip()


def _token_row(line: str, where: str) -> tuple[str, str, str]:
    key, tab, text = line.partition("\t")
    name, mark, comment = key.rpartition("#")
    if not tab or not mark:
        raise ValueError(
            f"{where}: received {line[:60]!r}, allowed is `name.jpg#0<tab>caption`; repair the line"
        )
    return name.strip(), comment.strip(), text.strip()


def _listed_names(paths: list[Path]) -> Iterator[tuple[str, str, str]]:
    for split, path in zip(SPLITS, paths, strict=True):
        yield from (
            (f"{path}: line {number}", line.strip(), split) for number, line in read_lines(path)
        )


def _karpathy_names(path: Path) -> Iterator[tuple[str, str, str]]:
    for position, entry in enumerate(member(read_json(path), "images", list, str(path))):
        where = f"{path}: images[{position}]"
        yield (
            where,
            member(entry, "filename", str, where),
            check_split(entry.get("split"), f"{where}.split"),
        )
