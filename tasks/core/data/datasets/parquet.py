"""Reads Parquet tables, one row an image or one row a caption, as the image-caption sets of the
Hugging Face hub are stored.

The picture column is binary, a struct `{bytes, path}`, or text. A text is a path relative to the
dataset folder, and so is `path`, which is used where `bytes` is null. A caption column holds a list
of texts or one text. Several columns are joined (`caption_0`, `caption_1`, ...). `sentences.raw`
names the texts `raw` of the structs in `sentences`.

Text columns are read first, row group by row group. Pictures are streamed when they are prepared
(`table_pictures.py`). Memory then holds the captions and a page of pictures, whatever the size of
files and row groups. A page is about 1 MB where the writer allows it. That of pyarrow closes a page
every 1,024 rows (`write_batch_size`) or at the end of a row group.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tasks.core.data.annotations import (
    check_caption,
    check_captions,
    check_name,
    compared,
    file_digest,
    nearest,
    of_type,
    text_digest,
)
from tasks.core.data.download_logs import STATUS, failed, has_status, is_failed
from tasks.core.data.image_files import StoredFile, StoredImage, check_one_split
from tasks.core.data.left_out import EMPTY_FILE, LeftOut, Unusable
from tasks.core.data.split_files import (
    SplitFiles,
    check_columns,
    files_of_splits,
    only_split,
    split_digests,
)
from tasks.core.data.table_pictures import PictureReader, TablePicture
from tasks.core.data.tables import PICTURE, Leaf, Table, open_table
from tasks.core.foundations.records import SPLITS, ImageCaptions


@dataclass(frozen=True, kw_only=True)
class Config(SplitFiles):
    """Where the tables lie, see `SplitFiles`, and what their columns mean.

    Attributes:
        rows: `images`: each row is another image with all its captions. `captions`: rows of the
            same name are one image with the captions of all. It takes the place and the picture of
            the first of them. Without a column of names, the path stands for the name.
        image: the column of pictures.
        captions: the columns of captions, at least one; `a.b` is the field `b` of structs in the
            lists of `a`.
        name: the column of image names, texts or numbers. A name is there once in the dataset, or
            with `rows: captions` in one split only. null names an image by its path. A picture
            without a path then is `<split>/<number>`, which `rows: captions` does not allow.
        split: the column with the split of each row; null when each table holds one split. With
            the column, a table may be listed under several splits.
        split_values: {value of the column: train, val, test, or null to leave the row out}; empty
            without the column.
    """

    rows: Literal["images", "captions"]
    image: str
    captions: list[str]
    name: str | None
    split: str | None
    split_values: dict[str, Literal["train", "val", "test"] | None]


@dataclass(frozen=True)
class _Row:
    """A row that is used.

    Attributes:
        name: from the column of names, or None without one.
        group, row: its row group, and its number inside this group.
        picture: the column that holds its picture, or the path of its picture.
    """

    where: str
    split: str
    captions: tuple[str, ...]
    name: str | None
    group: int
    row: int
    picture: Leaf | str


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Yield the examples in the order of tables and rows.

    Args:
        left_out: takes the rows that cannot be used, and counts those that `split_values` leaves
            out.

    Raises:
        FileNotFoundError, ValueError: a table or column is missing or malformed.
    """
    found = _examples(config, left_out)
    yield from _joined(found, left_out) if config.rows == "captions" else found


def _examples(config: Config, left_out: LeftOut) -> Iterator[ImageCaptions]:
    """Yield one example for each row."""
    # `counts` numbers the rows of a split, `claims` has the row of each picture file, and `seen`
    # the split of each
    readers: dict[Leaf, PictureReader] = {}
    counts = dict.fromkeys(SPLITS, 0)
    claims: dict[str, str] = {}
    seen: dict[str, tuple[str, str]] = {}
    for path, splits in _paths(config).items():
        whole = StoredFile(path.relative_to(config.path).as_posix(), path, 0, path.stat().st_size)
        for row in _rows(path, splits, config, left_out):
            number, counts[row.split] = counts[row.split], counts[row.split] + 1
            with left_out.catching():
                if isinstance(row.picture, Leaf):
                    if config.rows == "captions" and row.name is None:
                        raise ValueError(
                            f"{row.where}.{config.image}: holds a picture, and no column says "
                            "which rows have the same; received `rows: captions` with `name: "
                            "null`; allowed is a column of names; change `name` or `rows` of the "
                            "dataset in params.yaml"
                        )
                    # One reader for all tables, so that only one of them is open
                    reader = readers.setdefault(row.picture, PictureReader(row.picture))
                    name = row.name or f"{row.split}/{number:06d}"
                    load: StoredImage = TablePicture(whole, row.where, reader, row.group, row.row)
                else:
                    load = StoredImage(_file(row.picture, row.where, config), row.where)
                    if config.rows == "images":
                        _claim(claims, load, row.picture, config)
                    check_one_split(seen, load.file, row.split, row.where)
                    # Rows of one image may spell its path in several ways; the file has one name
                    path_name = row.picture if config.rows == "images" else load.file.name
                    name = row.name or path_name
                yield ImageCaptions(name, row.split, row.captions, load)


def _claim(claims: dict[str, str], load: StoredImage, picture: str, config: Config) -> None:
    """Refuse a picture that another row has already."""
    first = claims.setdefault(load.file.name, load.where)
    if first != load.where:
        raise Unusable(
            f"{load.where}.{config.image}",
            "picture of several rows",
            f"received {picture!r}, which is the picture of {first} too; allowed is one row for a "
            "picture; put all its captions into that row, or set `rows: captions` of the dataset "
            "in params.yaml",
        )


def _joined(rows: Iterable[ImageCaptions], left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Return one example for each name, at its first place, with the captions of all its rows."""
    images: dict[str, ImageCaptions] = {}
    names: dict[str, str] = {}
    for row in rows:
        with left_out.catching():
            path = _path_of(row)
            if path is not None and names.setdefault(path, row.name) != row.name:
                raise Unusable(
                    row.load.where,
                    "several names of one picture",
                    f"received {row.name!r} with the picture {path}, which "
                    f"{images[names[path]].load.where} has under {names[path]!r}; allowed is one "
                    "name for a picture; repair the table",
                )
            first = images.setdefault(row.name, row)
            if first is row:  # the first row of this name
                continue
            if (row.split, path) != (first.split, _path_of(first)):
                raise Unusable(
                    row.load.where,
                    "rows of one name that contradict each other",
                    f"received {row.name!r} in {row.split}, picture {path or 'in the row'}, but "
                    f"{first.load.where} has it in {first.split}, picture "
                    f"{_path_of(first) or 'in the row'}; allowed is one split and one picture for "
                    "all captions of an image; repair the table",
                )
            images[row.name] = replace(first, captions=first.captions + row.captions)
    return images.values()


def _path_of(row: ImageCaptions) -> str | None:
    """Return the name of the picture file of a row; None for a picture inside the table."""
    return None if isinstance(row.load, TablePicture) else row.load.file.name


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the names, splits and contents of the tables, and of the files that
    their rows name. It does not depend on `path`.
    """
    paths = _paths(config)
    files: dict[str, str] = {}
    # Rows that cannot be used are in no digest. They are refused later, when examples are read.
    left_out = LeftOut(1.0)
    for path, splits in paths.items():
        # Without captions and names, so that only columns for pictures and splits are read
        for row in _rows(path, splits, replace(config, captions=[], name=None), left_out):
            if isinstance(row.picture, str):
                with left_out.catching():
                    file = _file(row.picture, row.where, config)
                    files[row.picture] = digest_of(file.container)
    return text_digest({"tables": split_digests(config.path, paths, digest_of), "images": files})


def _paths(config: Config) -> dict[Path, tuple[str, ...]]:
    """Return the tables with the splits that list them, after checking the options about splits and
    captions.
    """
    if not config.captions:
        raise ValueError(
            "`captions` of the dataset is empty; name at least one column in params.yaml"
        )
    check_columns("image", config.image, config.captions)
    if (config.split is None) != (not config.split_values):
        raise ValueError(
            f"`split_values` of the dataset: received {config.split_values} with the column "
            f"{config.split!r}; allowed is one entry for "
            "each value of the column `split`, and {} without a column; change it in params.yaml"
        )
    paths = files_of_splits(config)
    if config.split is None:
        for path, splits in paths.items():
            only_split(path, splits)
    return paths


def _rows(path: Path, splits: tuple[str, ...], config: Config, left_out: LeftOut) -> Iterator[_Row]:
    """Yield the rows of a table that are used, after checking the types of all columns."""
    table, first = open_table(path), 0
    if not table.file.metadata.num_rows:
        left_out.mention(EMPTY_FILE, str(path))
    texts = [table.caption_leaf(column) for column in config.captions]
    columns = [leaf.column for leaf in texts]
    for field, named in (("name", config.name), ("split", config.split)):
        if named is not None:
            table.check_text(named, field)
            columns.append(named)
    stored, named_by = table.picture_leaves(config.image)
    # A table of img2dataset has a row for each failed download too
    if has_status(table):
        columns.append(STATUS)
    for group in range(table.file.num_row_groups):
        pictures = _pictures(table, group, stored, named_by)
        entries = table.entries(group, list(dict.fromkeys(columns)))
        for row, (entry, picture) in enumerate(zip(entries, pictures, strict=True)):
            where = f"{path}: row {first + row}"
            with left_out.catching():
                split = _split(entry, splits, config, where)
                if split is None:
                    left_out.mention("row that `split_values` leaves out", where)
                    continue
                if picture is None and STATUS in columns and is_failed(entry[STATUS]):
                    raise failed(where, entry[STATUS])
                if picture is None:
                    raise Unusable(
                        f"{where}.{config.image}",
                        "missing picture",
                        f"the picture is missing (null), allowed is {PICTURE}; add it or remove "
                        "the row",
                    )
                name = _name(entry, config, where)
                yield _Row(where, split, _captions(entry, texts, where), name, group, row, picture)
        first += table.num_rows(group)


def _pictures(
    table: Table, group: int, stored: Leaf | None, named_by: Leaf | None
) -> list[Leaf | str | None]:
    """Return, for each row of a row group, the column of its picture, the path of its picture, or
    None where the row has neither.
    """
    pictures: list[Leaf | str | None] = [stored] * table.num_rows(group)
    missing = table.null_rows(group, stored) if stored is not None else list(range(len(pictures)))
    # Paths are read only if a row needs one
    paths: list[str | None] = []
    if missing and named_by is not None:
        for array in table.arrays(group, named_by):
            paths += array.to_pylist()
    for row in missing:
        pictures[row] = paths[row] if paths else None
    return pictures


def _split(
    entry: dict[str, Any], splits: tuple[str, ...], config: Config, where: str
) -> str | None:
    """Return the split of a row, or None when `split_values` leaves it out."""
    if config.split is None:
        return splits[0]
    where, value = f"{where}.{config.split}", entry[config.split]
    key = str(value) if isinstance(value, int) else value
    if key not in config.split_values:
        raise Unusable(
            where,
            "unknown split",
            f"received split {value!r}, allowed is one of {', '.join(config.split_values)}; repair "
            "the table or add the value to `split_values` of the dataset in params.yaml",
        )
    split = config.split_values[key]
    if split is not None and split not in splits:
        raise ValueError(
            f"{where}: received {value!r}, a row of {split}, in a table that is listed under "
            f"{', '.join(splits)}; list the table under `{split}` of the dataset in params.yaml too"
        )
    return split


def _file(picture: str, where: str, config: Config) -> StoredFile:
    """Return the file that a path in a table means, in any of its spellings."""
    place = f"{where}.{config.image}"
    name = check_name(picture, place)
    same = compared(name)
    # As written, in the form of most systems, and in that of macOS
    for form in (name, same, unicodedata.normalize("NFD", same)):
        path = Path(config.path, form)
        # Path.is_file would raise for a name that is too long
        if os.path.isfile(path):
            return StoredFile(Path(form).as_posix(), path, 0, path.stat().st_size)
    folder = Path(config.path, same).parent
    near = ""
    if os.path.isdir(folder):
        near = nearest(same, sorted(os.listdir(folder), key=str.casefold))
    raise Unusable(
        place,
        "missing picture",
        f"image {name!r} is missing in {config.path}{near}; add the file, or change `path` or "
        "`image` of the dataset in params.yaml",
    )


def _name(entry: dict[str, Any], config: Config, where: str) -> str | None:
    """Return the name of a row, or None when no column has names."""
    if config.name is None:
        return None
    value = entry[config.name]
    return str(value) if isinstance(value, int) else of_type(value, str, f"{where}.{config.name}")


def _captions(entry: dict[str, Any], leaves: Sequence[Leaf], where: str) -> tuple[str, ...]:
    texts: list[str] = []
    for leaf in leaves:
        value, place = entry[leaf.column], f"{where}.{leaf}"
        if leaf.inner is not None and isinstance(value, list):
            value = [inner and inner[leaf.inner] for inner in value]
        if isinstance(value, list):
            texts += check_captions(value, place)
        else:
            texts.append(check_caption(value, place))
    return tuple(texts)
