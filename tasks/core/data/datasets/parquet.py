"""Parquet tables, one row an image or one row a caption, as the image-caption sets of the Hugging
Face hub are stored.

The picture column is binary, a struct `{bytes, path}`, or text: a path relative to the dataset
folder, which also serves where `bytes` is null. A caption column holds a list of texts or one text;
several columns are joined (`caption_0`, `caption_1`, ...). Text columns are read first, row group
by row group. Pictures are streamed when they are prepared (`table_pictures.py`). Memory then holds
the captions and a page of pictures, whatever the size of files and row groups. A page is about 1 MB
where the writer allows it; pyarrow's closes one every 1,024 rows (`write_batch_size`) or at the end
of a row group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tasks.core.data.annotations import (
    check_caption,
    check_captions,
    check_name,
    file_digest,
    of_type,
    text_digest,
)
from tasks.core.data.image_files import StoredFile, StoredImage
from tasks.core.data.split_files import files_of_splits, only_split, split_digests
from tasks.core.data.table_pictures import PictureReader, TablePicture
from tasks.core.data.tables import PICTURE, Leaf, Table, open_table
from tasks.core.foundations.records import SPLITS, ImageCaptions
from tasks.core.foundations.section import Section


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Where the raw data lie.

    Attributes:
        path: the dataset folder.
        train, val, test: names or globs of the tables inside it that hold rows of each split.
        rows: `images`, each row another image with all its captions, or `captions`: rows of the
            same name are one image, with the captions of all. It stands where the first of them is.
            Without a column of names, rows of the same path are one image; its picture is that of
            the first.
        image: the column of pictures.
        captions: the columns of captions, at least one.
        name: the text column of image names, each once in the dataset (with `rows: captions` in one
            split); null names an image by its path, or else (not with `rows: captions`)
            `<split>/<number>`.
        split: the text column that says the split of a row; null when each table holds one split.
            With it, a table may be listed under several splits.
        split_values: {value of that column: train, val, test, or null to leave the row out}; empty
            without the column.
    """

    path: str
    train: list[str]
    val: list[str]
    test: list[str]
    rows: Literal["images", "captions"]
    image: str
    captions: list[str]
    name: str | None
    split: str | None
    split_values: dict[str, Literal["train", "val", "test"] | None]


@dataclass(frozen=True)
class _Row:
    """A row that is used: its place, split, text columns, row group, row inside it, and the leaf or
    the path of its picture.
    """

    where: str
    split: str
    entry: dict[str, Any]
    group: int
    row: int
    picture: Leaf | str


def examples(config: Config) -> Iterable[ImageCaptions]:
    """Yield the examples in the order of tables and rows.

    Raises:
        FileNotFoundError, ValueError: a table, column or file is missing or malformed; the message
            names table, row and column.
    """
    found = _examples(config)
    yield from _joined(found) if config.rows == "captions" else found


def _examples(config: Config) -> Iterator[ImageCaptions]:
    """Yield one example for each row."""
    readers: dict[Leaf, PictureReader] = {}
    counts = dict.fromkeys(SPLITS, 0)
    claims: dict[str, str] = {}
    texts = [*config.captions, *([config.name] if config.name is not None else [])]
    for path, splits in _paths(config).items():
        whole = StoredFile(path.relative_to(config.path).as_posix(), path, 0, path.stat().st_size)
        for row in _rows(path, splits, config, texts):
            if isinstance(row.picture, Leaf):
                if config.rows == "captions" and config.name is None:
                    raise ValueError(
                        f"{row.where}.{config.image}: holds a picture, and no column says which "
                        "rows have the same; received "
                        "`rows: captions` with `name: null`; allowed is a column of names; "
                        "change `name` or `rows` of the dataset "
                        "in params.yaml"
                    )
                name = f"{row.split}/{counts[row.split]:06d}"
                # One reader for all tables: it holds one of them open.
                reader = readers.setdefault(row.picture, PictureReader(row.picture))
                load: StoredImage = TablePicture(whole, row.where, reader, row.group, row.row)
            else:
                load = StoredImage(_file(row.picture, row, config), row.where)
                name = row.picture if config.rows == "images" else load.file.name
                first = claims.setdefault(load.file.name, row.where)
                if config.rows == "images" and first != row.where:
                    raise ValueError(
                        f"{row.where}.{config.image}: received {name!r}, which is the picture of "
                        f"{first} too; allowed is one row for a "
                        "picture; put all its captions into that row, or set `rows: captions` of "
                        "the dataset in params.yaml"
                    )
            if config.name is not None:
                name = of_type(row.entry[config.name], str, f"{row.where}.{config.name}")
            counts[row.split] += 1
            yield ImageCaptions(name, row.split, _captions(row, config), load)


def _joined(rows: Iterable[ImageCaptions]) -> Iterable[ImageCaptions]:
    """Return one example for each name, where it comes first, with the captions of all its rows."""
    images: dict[str, ImageCaptions] = {}
    names: dict[str, str] = {}
    for row in rows:
        path = _path_of(row)
        if path is not None and names.setdefault(path, row.name) != row.name:
            raise ValueError(
                f"{row.load.where}: received {row.name!r} with the picture {path}, which "
                f"{images[names[path]].load.where} has under "
                f"{names[path]!r}; allowed is one name for a picture; repair the table"
            )
        first = images.setdefault(row.name, row)
        if first is row:
            continue
        if (row.split, path) != (first.split, _path_of(first)):
            raise ValueError(
                f"{row.load.where}: received {row.name!r} in {row.split}, picture "
                f"{path or 'in the row'}, but {first.load.where} has it in "
                f"{first.split}, picture {_path_of(first) or 'in the row'}; allowed is one split "
                "and one picture for all captions of an "
                "image; repair the table"
            )
        images[row.name] = replace(first, captions=first.captions + row.captions)
    return images.values()


def _path_of(row: ImageCaptions) -> str | None:
    """The file of the row's own picture; None for one that the table holds."""
    return None if isinstance(row.load, TablePicture) else row.load.file.name


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of name, splits and content of the tables and of the files that their rows
    name; `path` does not enter.
    """
    paths = _paths(config)
    files: dict[str, str] = {}
    for path, splits in paths.items():
        for row in _rows(path, splits, config, []):
            if isinstance(row.picture, str):
                files[row.picture] = digest_of(_file(row.picture, row, config).container)
    return text_digest({"tables": split_digests(config.path, paths, digest_of), "images": files})


def _paths(config: Config) -> dict[Path, tuple[str, ...]]:
    """Return the tables with the splits that list them, after checking what the options say about
    splits and captions.
    """
    if not config.captions:
        raise ValueError(
            "`captions` of the dataset is empty; name at least one column in params.yaml"
        )
    if (config.split is None) != (not config.split_values):
        raise ValueError(
            f"`split_values` of the dataset: received {config.split_values} with the column "
            f"{config.split!r}; allowed is one entry for "
            "each value of the column `split`, and {} without a column; change it in params.yaml"
        )
    paths = files_of_splits(config.path, {split: getattr(config, split) for split in SPLITS})
    if config.split is None:
        for path, splits in paths.items():
            only_split(path, splits)
    return paths


def _rows(
    path: Path, splits: tuple[str, ...], config: Config, texts: Sequence[str]
) -> Iterator[_Row]:
    """Yield the rows of a table that are used, with the columns `texts` of each, after checking the
    types of all columns.
    """
    table, first = open_table(path), 0
    for column in config.captions:
        table.check_text(column, "captions", is_list_allowed=True)
    for field, named in (("name", config.name), ("split", config.split)):
        if named is not None:
            table.check_text(named, field)
    stored, named_by = table.picture_leaves(config.image)
    columns = [*texts, *([config.split] if config.split is not None else [])]
    for group in range(table.file.num_row_groups):
        pictures = _pictures(table, group, stored, named_by)
        for row, (entry, picture) in enumerate(
            zip(table.entries(group, columns), pictures, strict=True)
        ):
            where = f"{path}: row {first + row}"
            split = (
                splits[0]
                if config.split is None
                else _split(entry[config.split], splits, config, f"{where}.{config.split}")
            )
            if split is not None and picture is None:
                raise ValueError(
                    f"{where}.{config.image}: the picture is missing (null), allowed is "
                    f"{PICTURE}; add it or remove the row"
                )
            if split is not None and picture is not None:
                yield _Row(where, split, entry, group, row, picture)
        first += table.num_rows(group)


def _pictures(
    table: Table, group: int, stored: Leaf | None, named_by: Leaf | None
) -> list[Leaf | str | None]:
    """Return for each row of a row group the leaf that holds its picture, or its path, or None
    where there is neither.
    """
    pictures: list[Leaf | str | None] = [stored] * table.num_rows(group)
    missing = table.null_rows(group, stored) if stored is not None else list(range(len(pictures)))
    paths: list[str | None] = [None] * len(pictures)
    if missing and named_by is not None:
        paths = [path for array in table.arrays(group, named_by) for path in array.to_pylist()]
    for row in missing:
        pictures[row] = paths[row]
    return pictures


def _split(value: Any, splits: tuple[str, ...], config: Config, where: str) -> str | None:
    if value not in config.split_values:
        raise ValueError(
            f"{where}: received split {value!r}, allowed is one of "
            f"{', '.join(config.split_values)}; repair the table or add the value to "
            "`split_values` of the dataset in params.yaml"
        )
    split = config.split_values[value]
    if split is not None and split not in splits:
        raise ValueError(
            f"{where}: received {value!r}, a row of {split}, in a table that is listed under "
            f"{', '.join(splits)}; "
            f"list the table under `{split}` of the dataset in params.yaml too"
        )
    return split


def _file(picture: str, row: _Row, config: Config) -> StoredFile:
    name = check_name(picture, f"{row.where}.{config.image}")
    path = Path(config.path, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{row.where}.{config.image}: image {name!r} is missing in {config.path}; add the "
            "file, or change `path` or `image` of the "
            "dataset in params.yaml"
        )
    return StoredFile(Path(name).as_posix(), path, 0, path.stat().st_size)


def _captions(row: _Row, config: Config) -> tuple[str, ...]:
    texts: list[str] = []
    for column in config.captions:
        value, where = row.entry[column], f"{row.where}.{column}"
        texts += (
            check_captions(value, where)
            if isinstance(value, list)
            else [check_caption(value, where)]
        )
    return tuple(texts)
