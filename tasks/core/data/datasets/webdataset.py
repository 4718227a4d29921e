"""WebDataset: shards, uncompressed tars in which the files of one example have the same key,
`<key>.jpg` beside `<key>.txt`.

Source: A. Aizman, G. Maltby, T. Breuel, High Performance I/O for Large Scale Deep Learning (2019),
and img2dataset, which writes such shards. As there, a key is a member's folder and its name up to
the first dot, and the rest is the ending.

* Picture: `.jpg`, `.jpeg`, `.png` or `.webp`, one a key, read in place in its shard when it is
  prepared.
* Captions: the lines of `.txt` that are not blank; where there is no `.txt`, `captions` (a list) or
  else `caption` of `.json`.

Other endings, and keys that have neither picture nor captions, are left out. An example is named
`<split>/<member>`, because the shards of each split are often numbered from the beginning; inside a
split a key is there once. Nothing is unpacked.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.core.data.annotations import (
    check_caption,
    check_captions,
    check_name,
    file_digest,
    member,
    text_digest,
)
from tasks.core.data.image_files import StoredFile, StoredImage
from tasks.core.data.split_files import files_of_splits, only_split, split_digests
from tasks.core.foundations.records import SPLITS, ImageCaptions
from tasks.core.foundations.section import Section

_PICTURES, _CAPTIONS = ("jpg", "jpeg", "png", "webp"), ("txt", "json")


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Where the raw data lie.

    Attributes:
        path: the dataset folder.
        train, val, test: names or globs of the shards of each split inside it, `.tar`.
    """

    path: str
    train: list[str]
    val: list[str]
    test: list[str]


@dataclass
class _Sample:
    """What a shard holds under one key: members of the endings `_PICTURES`, and the bytes of those
    of `_CAPTIONS` by ending.
    """

    pictures: list[StoredFile] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)


def examples(config: Config) -> Iterable[ImageCaptions]:
    """Yield the examples of train, val and test: shards in the order of the options, keys in that
    of their first member.

    Raises:
        FileNotFoundError, ValueError: a shard is missing or malformed; the message names it, the
            key and the field.
    """
    places: dict[tuple[str, str], str] = {}
    for path, splits in _shards(config).items():
        split = only_split(path, splits)
        for key, sample in _samples(path).items():
            where = f"{path}: key {key!r}"
            first = places.setdefault((split, key), where)
            if first != where:
                raise ValueError(
                    f"{where}: the key is in {split} a second time, first at {first}; allowed is "
                    "once; remove one of the two"
                )
            picture = _picture(sample, where)
            yield ImageCaptions(
                f"{split}/{picture.name}",
                split,
                _captions(sample, where),
                StoredImage(picture, where),
            )


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of name, split and content of the shards; `path` does not enter."""
    return text_digest({"shards": split_digests(config.path, _shards(config), digest_of)})


def _shards(config: Config) -> dict[Path, tuple[str, ...]]:
    return files_of_splits(config.path, {split: getattr(config, split) for split in SPLITS})


def _samples(path: Path) -> dict[str, _Sample]:
    """Return the samples of a shard by key, in the order of their first member."""
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for name, info in _members(archive, path):
                stem, _, rest = name.name.partition(".")
                key, ending = name.with_name(stem).as_posix(), rest.lower()
                sample = samples.setdefault(key, _Sample())
                if ending in _PICTURES:
                    sample.pictures.append(
                        StoredFile(name.as_posix(), path, info.offset_data, info.size)
                    )
                elif ending in sample.texts:
                    raise ValueError(
                        f"{path}: key {key!r}: .{ending} is there twice, allowed is once; repair "
                        "the shard"
                    )
                else:
                    sample.texts[ending] = _content(archive, info, path)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(
            f"{path}: not a whole, uncompressed tar ({error}); unpack a .tar.gz to .tar, or get "
            "the shard again"
        ) from error
    return samples


def _members(
    archive: tarfile.TarFile, path: Path
) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
    """Yield name and header of each file that has a key and an ending that is read."""
    for info in archive:
        if info.isdir():
            continue
        name = PurePosixPath(check_name(info.name, f"{path}: member {info.name!r}"))
        stem, _, ending = name.name.partition(".")
        if stem and ending.lower() in (*_PICTURES, *_CAPTIONS):
            if not info.isreg() or info.issparse():
                raise ValueError(
                    f"{path}: member {info.name!r} is a link or a sparse file, allowed are plain "
                    "files; write the shard again"
                )
            yield name, info


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> bytes:
    handle = archive.extractfile(info)
    data = handle.read() if handle is not None else b""
    if len(data) != info.size:
        raise ValueError(
            f"{path}: member {info.name!r} has {len(data)} bytes of {info.size}; get the shard "
            "again"
        )
    return data


def _picture(sample: _Sample, where: str) -> StoredFile:
    if len(sample.pictures) != 1:
        received = " and ".join(file.name for file in sample.pictures) or ", ".join(
            f".{ending}" for ending in sample.texts
        )
        problem = "several pictures have this key" if sample.pictures else "the picture is missing"
        allowed = ", ".join(f".{ending}" for ending in _PICTURES)
        raise ValueError(
            f"{where}: {problem}; received {received}, allowed is one member that ends in "
            f"{allowed}; repair the shard"
        )
    return sample.pictures[0]


def _captions(sample: _Sample, where: str) -> tuple[str, ...]:
    if "txt" in sample.texts:
        lines = _text(sample.texts["txt"], f"{where}.txt").split("\n")
        return check_captions([line.rstrip("\r") for line in lines if line.strip()], f"{where}.txt")
    if "json" not in sample.texts:
        raise ValueError(
            f"{where}: the image has no captions, received neither .txt nor .json; add one to "
            "the shard"
        )
    entry = _json(sample.texts["json"], f"{where}.json")
    if isinstance(entry, dict) and "captions" in entry:
        return check_captions(entry["captions"], f"{where}.json.captions")
    return (check_caption(member(entry, "caption", str, f"{where}.json"), f"{where}.json.caption"),)


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(_text(data, where))
    except RecursionError as error:
        raise ValueError(
            f"{where}: JSON nested too deeply to hold captions; repair the shard"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: line {error.lineno} column {error.colno}: malformed JSON ({error.msg}); "
            "repair the shard"
        ) from error


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {error.start} is not UTF-8; captions must be UTF-8 text"
        ) from error
