"""Reads Flickr8k and Flickr30K as their authors and Kaggle give them: a table with one row a
caption, and a split beside it.

Source: P. Young et al., From image descriptions to visual denotations (TACL 2014). The table is

* `results_20130124.token`: `name.jpg#0<tab>caption`,
* `results.csv`: `image_name| comment_number| comment`, or
* a table with the header of Kaggle's `captions.txt` or of a csv of open_clip, see `_HEADERS`.

A caption in quotes, as CSV has them, loses the quotes and may have several lines. Images of the
table that no split names are left out.

Stated repair: results.csv is known to hold a row without its second separator (`2199200615.jpg| 4
A dog runs ...`). Such a row, a number and text in one field, is read as number and text, with a
warning; any other malformed row is an error.
"""

from __future__ import annotations

import itertools
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
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.foundations.records import SPLITS, ImageCaptions
from tasks.core.foundations.section import Section

LOGGER = logging.getLogger(__name__)
# Most lines of a caption in quotes, beside its first.
_MAX_LINES = 20
# Most digits of the number of a comment.
_MAX_DIGITS = 9
# A number and a text in one cell, where the separator between them is missing.
_GLUED = re.compile(r"\s*(\d+)\s+(\S.*)")
# Header, without blanks -> separator of the table. The first column is the name of the image, the
# last one is the caption. Between them may be the number of the caption.
_HEADERS = {
    "image_name|comment_number|comment": "|",
    "image_name,comment_number,comment": ",",
    "image,caption": ",",
    "filepath,title": ",",
    "filepath\ttitle": "\t",
}


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Where the raw data lie.

    Attributes:
        path: the dataset folder.
        table: the caption table inside it. Without a header, a `.csv` has the separator `|`, and a
            file with any other ending has the token format.
        splits: one Karpathy json, or three text files of image names: train, val and test, in this
            order. A text file has one name a line, and `.jpg` may be left out.
        images: names or globs of the folders and tars inside it that hold the pictures.
    """

    path: str
    table: str
    splits: list[str]
    images: list[str]


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Return the examples of train, val and test, each in the order of the split.

    Args:
        left_out: takes the rows and names that cannot be used.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed.
    """
    table, *splits = _paths(config)
    annotations = read_annotations(table, splits, left_out)
    return attach_images(annotations, config.path, config.images, left_out)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the table, the splits, and the names and contents of the picture files.
    It does not depend on `path`.
    """
    images = content_digests(config.path, config.images, digest_of)
    return text_digest(
        {"annotations": [digest_of(path) for path in _paths(config)], "images": images}
    )


def read_annotations(table: Path, splits: list[Path], left_out: LeftOut) -> list[Annotation]:
    """Return the split and the captions of each image; the pictures need not be there."""
    captions = _captions(table, left_out)
    annotations = []
    unnamed = dict.fromkeys(captions)
    named = _karpathy_names(splits[0], left_out) if len(splits) == 1 else _listed_names(splits)
    for where, listed, split in named:
        # Lists of names may leave `.jpg` out
        name = listed if listed in captions else f"{listed}.jpg"
        unnamed.pop(name, None)
        with left_out.catching():
            if name not in captions:
                raise Unusable(
                    where,
                    "image without captions",
                    f"image {listed!r} has no captions in {table}; remove it from the split or "
                    "replace the table",
                )
            texts = tuple(captions[name][number] for number in sorted(captions[name]))
            annotations.append(Annotation(name, split, texts, where))
    for name in unnamed:
        left_out.mention("image that no split names", name)
    return annotations


def _captions(table: Path, left_out: LeftOut) -> dict[str, dict[int, str]]:
    """Return {image name: {number: caption}}. A table without numbers has its captions counted."""
    captions: dict[str, dict[int, str]] = {}
    for where, (name, *numbers, text) in _rows(table, left_out):
        with left_out.catching():
            texts = captions.setdefault(name.strip(), {})
            number = numbers[0].strip() if numbers else str(len(texts))
            if not number.isascii() or not number.isdigit() or len(number) > _MAX_DIGITS:
                raise Unusable(
                    f"{where} (comment number)",
                    "malformed row",
                    f"received {number[:60]!r}, allowed is a whole number; repair the line, or the "
                    f"header, which is one of {', '.join(map(repr, _HEADERS))}",
                )
            if int(number) in texts:
                raise Unusable(
                    where,
                    "comment that is there twice",
                    f"comment {number} of image {name!r} is there twice, allowed is once; repair "
                    "the file",
                )
            texts[int(number)] = check_caption(text.strip(), f"{where} (comment)")
    return captions


def _paths(config: Config) -> list[Path]:
    if len(config.splits) not in (1, 3):
        raise ValueError(
            f"`splits` of the dataset: received {len(config.splits)} files, allowed is one "
            "Karpathy json or three lists of names "
            "(train, val, test); change it in params.yaml"
        )
    splits = [annotation_path(config.path, name, "splits") for name in config.splits]
    return [annotation_path(config.path, config.table, "table"), *splits]


def _rows(table: Path, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, cells) of each row: image name, comment number if there is one, comment."""
    # "" as separator stands for the token format
    separator, num_cells = ("|" if table.suffix == ".csv" else ""), 3
    lines = read_lines(table)
    for number, line in lines:
        header = line.replace(" ", "")
        # A file that is no .csv has no `|` columns, so such a first line is a row and not a header
        if number == 1 and header in _HEADERS and (separator or "|" not in header):
            separator = _HEADERS[header]
            num_cells = header.count(separator) + 1
            continue
        where = f"{table}: line {number}"
        with left_out.catching():
            if separator:
                yield where, _cells(line, lines, separator, num_cells, where)
            else:
                yield where, _token_cells(line, where)


def _cells(
    line: str, lines: Iterator[tuple[int, str]], separator: str, num_cells: int, where: str
) -> list[str]:
    """Return the cells of a row. While a quote is open, further lines are taken from `lines`."""
    # The caption is the last cell and may hold the separator, so splits are counted
    *cells, text = line.split(separator, num_cells - 1)
    num_lines = _MAX_LINES if _is_open(text) else 0
    for _, more in itertools.islice(lines, num_lines):
        text += f"\n{more}"
        if not _is_open(text):
            break
    # The stated repair of results.csv, see the beginning of this file
    glued = _GLUED.fullmatch(text)
    if glued and num_cells == 3 and len(cells) == 1:
        LOGGER.warning(
            "%s: the second separator is missing; read as comment %s, %r", where, glued[1], glued[2]
        )
        cells, text = [cells[0], glued[1]], glued[2]
    if len(cells) != num_cells - 1 or _is_open(text):
        raise Unusable(
            where,
            "malformed row",
            f"received {line[:60]!r}, allowed is `image_name| comment_number| comment`, or the "
            f"{num_cells} cells of the header, separated by {separator!r}; repair the line, or "
            "take the reader `csv`, whose options name the columns",
        )
    text = text.strip()
    # CSV doubles quotes inside of quotes. If single ones are inside, the outer ones are text.
    if text[:1] == text[-1:] == '"' and '"' not in text[1:-1].replace('""', ""):
        text = text[1:-1].replace('""', '"')
    return [*cells, text]


def _is_open(text: str) -> bool:
    return text.lstrip().startswith('"') and text.count('"') % 2 == 1


def _token_cells(line: str, where: str) -> list[str]:
    key, tab, text = line.partition("\t")
    name, mark, number = key.rpartition("#")
    if not tab or not mark:
        raise Unusable(
            where,
            "malformed row",
            f"received {line[:60]!r}, allowed is `name.jpg#0<tab>caption`, separated by a tab, or "
            f"a table with a header of {', '.join(map(repr, _HEADERS))}; repair the line, or take "
            "the reader `csv`, whose options name the columns",
        )
    return [name, number, text]


def _listed_names(paths: list[Path]) -> Iterator[tuple[str, str, str]]:
    for split, path in zip(SPLITS, paths, strict=True):
        for number, line in read_lines(path):
            yield f"{path}: line {number}", line.strip(), split


def _karpathy_names(path: Path, left_out: LeftOut) -> Iterator[tuple[str, str, str]]:
    for position, entry in enumerate(member(read_json(path, left_out), "images", list, str(path))):
        where = f"{path}: images[{position}]"
        with left_out.catching():
            name = member(entry, "filename", str, where)
            yield where, name, check_split(entry.get("split"), f"{where}.split")
