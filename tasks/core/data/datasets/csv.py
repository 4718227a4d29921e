"""Reads tables of text with named columns, one row an image or one row a caption: csv, tsv, or any
other delimiter.

Rows of the same file name are one image. It has the captions of all these rows and of all caption
columns, in their order. `text_rows.py` has the rules of quotes and blanks. A cell of `nan`, `null`
or `none` is a missing value that a program wrote as text, and no caption.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from tasks.core.data.annotations import (
    Annotation,
    annotation_path,
    check_name,
    file_digest,
    text_digest,
)
from tasks.core.data.image_files import attach_images, content_digests
from tasks.core.data.left_out import EMPTY_FILE, LeftOut, Unusable
from tasks.core.data.shares import SharedFiles, check_shares, divided
from tasks.core.data.split_files import check_columns, files_of_splits, split_digests
from tasks.core.data.text_rows import check_cell, other_delimiter, text_rows
from tasks.core.foundations.names import hint
from tasks.core.foundations.records import ImageCaptions

LOGGER = logging.getLogger(__name__)
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


@dataclass(frozen=True, kw_only=True)
class Config(SharedFiles):
    """Where the tables lie, see `SharedFiles`, and what their columns mean.

    Attributes:
        images: names or globs of the folders and tars inside `path` that hold the pictures.
        file: the column of picture names.
        captions: the columns of captions, at least one. Empty cells are skipped if another column
            of the row has a caption.
        split: the column with the split of each row; null when tables or `shares` decide it. With
            the column, a table may be listed under several splits.
        split_values: {value of the column: train, val, test, or null to leave the row out}; empty
            without the column.
        delimiter: one character; null takes the delimiter of the ending, `.csv` or `.tsv`.
    """

    images: list[str]
    file: str
    captions: list[str]
    split: str | None
    split_values: dict[str, Literal["train", "val", "test"] | None]
    delimiter: str | None


@dataclass
class _Image:
    """An image as the rows of its file name describe it; `where` is the first of these rows."""

    where: str
    splits: tuple[str, ...]
    captions: list[str] = field(default_factory=list)


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Return the examples in the order of tables and rows.

    Args:
        left_out: takes the rows that cannot be used, and counts those that `split_values` leaves
            out.

    Raises:
        FileNotFoundError, ValueError: a table or column is missing or malformed.
    """
    annotations = read_annotations(config, left_out)
    return attach_images(annotations, config.path, config.images, left_out)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the names, splits and contents of the tables, and of the names and
    contents of the picture files. It does not depend on `path`.
    """
    return text_digest(
        {
            "tables": split_digests(config.path, _paths(config), digest_of),
            "images": content_digests(config.path, config.images, digest_of),
        }
    )


def read_annotations(config: Config, left_out: LeftOut) -> list[Annotation]:
    """Return the split and the captions of each image; the pictures need not be there."""
    images: dict[str, _Image] = {}
    for path, splits in _paths(config).items():
        for where, row in _rows(path, config, left_out):
            with left_out.catching():
                named = _splits(row, splits, config, where)
                if not named:
                    left_out.mention("row that `split_values` leaves out", where)
                    continue
                name = check_name(row[config.file], f"{where}.{config.file}")
                # Before the image is kept, so that a refused row leaves no image behind
                texts = _captions(row, config, where)
                image = images.setdefault(name, _Image(where, named))
                if image.splits != named:
                    raise Unusable(
                        where,
                        "rows of one picture in several splits",
                        f"received {name!r} in {', '.join(named)}, but {image.where} has it in "
                        f"{', '.join(image.splits)}; allowed is one split for a picture; repair "
                        "the table",
                    )
                image.captions += texts
    named_images = [(name, image.splits) for name, image in images.items()]
    found = zip(images.items(), divided(named_images, config.shares), strict=True)
    return [
        Annotation(name, split, tuple(image.captions), image.where)
        for (name, image), split in found
    ]


def _paths(config: Config) -> dict[Path, tuple[str, ...]]:
    """Return the tables with the splits that list them, after checking the options."""
    if not config.captions:
        raise ValueError(
            "`captions` of the dataset is empty; name at least one column in params.yaml"
        )
    check_columns("file", config.file, config.captions)
    if (config.split is None) != (not config.split_values):
        raise ValueError(
            f"`split_values` of the dataset: received {config.split_values} with the column "
            f"{config.split!r}; allowed is one entry for each value of the column `split`, and "
            "{} without a column; change it in params.yaml"
        )
    delimiter = config.delimiter
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(
            f"`delimiter` of the dataset: received {delimiter!r}, allowed is one character that is "
            "no quote and no line break, or null; change it in params.yaml"
        )
    paths = files_of_splits(config)
    for path, splits in paths.items():
        # Refuses a table that is too large to be read at once
        annotation_path(config.path, path.relative_to(config.path).as_posix(), splits[0])
        _delimiter(path, config)
    # With a column `split` each row has one split, and no table is divided by shares
    check_shares(paths if config.split is None else [], paths, config.shares)
    return paths


def _rows(path: Path, config: Config, left_out: LeftOut) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the place and the cells of each row by column."""
    num_rows = 0

    def refuse(error: Unusable) -> None:
        nonlocal num_rows
        num_rows += 1
        left_out.refuse(error)

    rows = text_rows(path, _delimiter(path, config), refuse)
    _, first = next(rows, ("", []))
    if not first:
        raise ValueError(f"{path}: is empty; allowed is a table with a header; get it again")
    header = _checked(first, config, path)
    _mention_alike(header, config, path)
    for where, cells in rows:
        num_rows += 1
        yield where, dict(zip(header, cells, strict=True))
    if not num_rows:
        left_out.mention(EMPTY_FILE, str(path))


def _mention_alike(header: list[str], config: Config, path: Path) -> None:
    """Warn of columns that nothing reads, and that have the name of a caption column up to a
    number.
    """
    stems = {"caption", *map(_stem, config.captions)}
    read = {config.file, config.split, *config.captions}
    alike = [name for name in header if name not in read and _stem(name) in stems]
    if alike:
        LOGGER.warning(
            "%s: received %d columns that are named like captions and that nothing reads: %s; "
            "name them in `captions` of the dataset in params.yaml where they hold captions",
            path,
            len(alike),
            ", ".join(map(repr, alike)),
        )


def _stem(name: str) -> str:
    """Return the name of a column without its number: `caption` of `Caption_2`."""
    return name.casefold().rstrip("0123456789_- ").removesuffix("s")


def _checked(header: list[str], config: Config, path: Path) -> list[str]:
    """Return the header after checking that each column of the options is there once."""
    columns = {"file": [config.file], "captions": config.captions, "split": []}
    if config.split is not None:
        columns["split"] = [config.split]
    for option, names in columns.items():
        for name in names:
            count = header.count(name)
            if count != 1:
                problem = (
                    f" is there {count} times" if count else f"{hint(name, header)} is missing"
                )
                raise ValueError(
                    f"{path}: the column {name!r}{problem}; received the header "
                    f"{', '.join(map(repr, header[:20]))}{other_delimiter(header)}; change "
                    f"`{option}`, or `delimiter`, of the dataset in params.yaml, or write a header "
                    "into the first line"
                )
    return header


def _delimiter(path: Path, config: Config) -> str:
    if config.delimiter is not None:
        return config.delimiter
    ending = PurePosixPath(path.name.removesuffix(".gz")).suffix.lower()
    if ending not in _DELIMITERS:
        raise ValueError(
            f"{path}: the ending {ending!r} says no delimiter, those that do are "
            f"{', '.join(_DELIMITERS)}; state `delimiter` of the dataset in params.yaml"
        )
    return _DELIMITERS[ending]


def _splits(
    row: Mapping[str, str], splits: tuple[str, ...], config: Config, where: str
) -> tuple[str, ...]:
    """Return the splits that a row may have: the one of its column `split`, or those of its table.
    Empty leaves the row out.
    """
    if config.split is None:
        return splits
    value = row[config.split]
    if value not in config.split_values:
        raise Unusable(
            f"{where}.{config.split}",
            "unknown split",
            f"received split {value[:60]!r}, allowed is one of {', '.join(config.split_values)}; "
            "repair the table or add the value to `split_values` of the dataset in params.yaml",
        )
    split = config.split_values[value]
    if split is not None and split not in splits:
        raise ValueError(
            f"{where}.{config.split}: received {value!r}, a row of {split}, in a table that is "
            f"listed under {', '.join(splits)}; list the table under `{split}` of the dataset in "
            "params.yaml too"
        )
    return () if split is None else (split,)


def _captions(row: Mapping[str, str], config: Config, where: str) -> list[str]:
    """Return the captions of a row, from each cell that is not empty."""
    # Without any the first cell is checked, which raises that it holds no caption
    filled = [column for column in config.captions if row[column]]
    return [
        check_cell(row[column], f"{where}.{column}") for column in filled or config.captions[:1]
    ]
