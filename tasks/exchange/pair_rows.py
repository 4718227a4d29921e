"""Reads rows of real image-caption pairs: from a folder with pictures beside .txt files, a csv or
tsv, or a Parquet table.

A reader yields each picture, unopened, with its captions. It notes what cannot be used and goes on.
Every reader takes a caption of `nan`, `null` or `none` as a missing value that a program wrote.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core.data.annotations import (
    check_captions,
    check_name,
    read_lines,
)
from tasks.core.data.image_files import StoredFile, StoredImage, unfolded
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.data.table_pictures import PictureReader, TablePicture
from tasks.core.data.tables import PICTURE, Leaf, Table, open_table
from tasks.core.data.text_rows import check_cell, other_delimiter, text_rows
from tasks.core.foundations.names import hint
from tasks.core.foundations.records import ImageCaptions

TEXT = ".txt"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*DELIMITERS, ".parquet")


def read_folder(
    path: Path, left_out: LeftOut, refused: list[ValueError]
) -> Iterator[ImageCaptions]:
    """Yield each picture that has a .txt of its name beside it; each line of the .txt is a caption.

    Linked folders are read too, each once.

    Args:
        left_out: counts the files that make no pair.
        refused: takes what cannot be used.
    """
    # By path without ending: a .txt and its picture have the same one
    texts: dict[Path, Path] = {}
    others: dict[Path, list[Path]] = defaultdict(list)
    for file in sorted(unfolded(path)):
        if not file.is_file():
            left_out.mention("named pipe, device or broken link", str(file))
        elif file.suffix == TEXT:
            texts[file.with_suffix("")] = file
        else:
            others[file.with_suffix("")].append(file)
    for name, files in others.items():
        if name not in texts:
            for file in files:
                left_out.mention(f"file without a {TEXT} beside it", str(file))
    for name, text in texts.items():
        if not others[name]:
            left_out.mention(f"{TEXT} without a picture beside it", str(text))
            continue
        with noting(refused):
            if len(others[name]) > 1:
                raise Unusable(
                    str(text),
                    "name of several files",
                    f"belongs to {', '.join(file.name for file in others[name])}; allowed is one "
                    "picture of its name; rename the others",
                )
            lines = [
                check_cell(line, f"{text}: line {number}") for number, line in read_lines(text)
            ]
            captions = check_captions(lines, str(text))
            yield _example(path, str(others[name][0].relative_to(path)), captions, text.name)


def read_delimited(
    path: Path, picture: str, caption: str, refused: list[ValueError]
) -> Iterator[ImageCaptions]:
    """Yield the rows of a csv or tsv; pictures are paths from its folder.

    Args:
        picture, caption: names of the columns.
        refused: takes what cannot be used.

    Raises:
        ValueError: a column is missing, or a quote stays open.
    """
    rows = text_rows(path, DELIMITERS[path.suffix], refused.append)
    _, header = next(rows, ("", []))
    _check_columns(path, header, picture, caption)
    for where, cells in rows:
        row = dict(zip(header, cells, strict=True))
        with noting(refused):
            text = check_cell(row[caption], f"{where}.{caption}")
            yield _example(path.parent, row[picture], (text,), f"{where}.{picture}")


def read_parquet(
    path: Path, picture: str, caption: str, refused: list[ValueError]
) -> Iterator[ImageCaptions]:
    """Yield the rows of a Parquet table; pictures are bytes, or paths from its folder.

    Args, raises: as `read_delimited`.
    """
    table = open_table(path)
    names = table.file.schema_arrow.names
    try:
        stored, named_by = table.picture_leaves(picture)
        texts = table.caption_leaf(caption)
    except ValueError as error:
        raise ValueError(
            f"{path}: --picture-column, --caption-column: received {picture!r}, {caption!r}; "
            f"allowed are a column of pictures ({PICTURE}) and one of texts or lists of texts, "
            f"among {', '.join(names)}; change them"
        ) from error
    # Pictures are bytes in the column, or paths in it
    leaf = stored or named_by
    assert leaf is not None, "a column of pictures has one of both"
    reader, first = PictureReader(leaf), 0
    whole = StoredFile(path.name, path, 0, path.stat().st_size)
    for group in range(table.file.num_row_groups):
        values = _values(table, group, leaf, is_path=stored is None)
        entries = table.entries(group, [texts.column])
        for row, (entry, value) in enumerate(zip(entries, values, strict=True)):
            where = f"{path}: row {first + row}"
            with noting(refused):
                if value is None:
                    raise Unusable(
                        f"{where}.{picture}", "missing picture", "is empty; add the picture"
                    )
                captions = _texts(entry, texts, f"{where}.{caption}")
                if stored is None:
                    yield _example(path.parent, value, captions, f"{where}.{picture}")
                else:
                    load = TablePicture(whole, where, reader, group, row)
                    yield ImageCaptions(where, "train", captions, load)
        # Messages count rows through the whole table, not within a group
        first += table.num_rows(group)


def _values(table: Table, group: int, leaf: Leaf, *, is_path: bool) -> list[Any]:
    """Return the path of each row of a row group, or whether it has a picture: True or None."""
    if is_path:
        return [path for array in table.arrays(group, leaf) for path in array.to_pylist()]
    values: list[Any] = [True] * table.num_rows(group)
    for row in table.null_rows(group, leaf):
        values[row] = None
    return values


def _texts(entry: dict[str, Any], leaf: Leaf, where: str) -> tuple[str, ...]:
    value = entry[leaf.column]
    if not isinstance(value, list):
        return (check_cell(value, where),)
    if leaf.inner is not None:
        value = [inner and inner[leaf.inner] for inner in value]
    texts = check_captions(value, where)
    return tuple(check_cell(text, f"{where}[{number}]") for number, text in enumerate(texts))


def _check_columns(path: Path, names: list[str], picture: str, caption: str) -> None:
    if picture == caption:
        raise ValueError(
            f"{path}: --picture-column, --caption-column: received {picture!r} for both; allowed "
            f"are two of {', '.join(names)}; change one"
        )
    for name in (picture, caption):
        count = names.count(name)
        if count != 1:
            meant = "" if count else hint(name, names)
            raise ValueError(
                f"{path}: --picture-column, --caption-column: received {name!r}{meant}, which is "
                f"there {count} times; allowed: {', '.join(names) or 'none'}"
                f"{other_delimiter(names)}; change them, or the file"
            )


def _example(root: Path, name: Any, captions: tuple[str, ...], where: str) -> ImageCaptions:
    """Return a picture that lies in a file below `root`."""
    file = root / check_name(name, where)
    # Unlike Path, false where the name is too long for a file
    if not os.path.isfile(file):
        raise Unusable(
            where, "missing picture", f"{name!r} is missing in {root}; add the file or change it"
        )
    return ImageCaptions(
        name, "train", captions, StoredImage(StoredFile(name, file, 0, file.stat().st_size), where)
    )


@contextmanager
def noting(refused: list[ValueError]) -> Iterator[None]:
    """Note what cannot be used, and go on after the block."""
    try:
        yield
    except ValueError as error:
        refused.append(error)
