"""Annotation files of caption datasets: reading them, and the checks that all readers and the
preparation share.

`where` in these functions is the place a value came from, "<file>: <field>", and starts every
message. Images are found by `image_files.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from tasks.core.foundations.records import SPLITS

T = TypeVar("T")


@dataclass(frozen=True)
class Annotation:
    """What an annotation file says about one image: its name, its split, its captions and the place
    it stands at.
    """

    name: str
    split: str
    captions: tuple[str, ...]
    where: str


def annotation_path(root: str, name: str, field: str) -> Path:
    """Return the path of annotation file `name` inside the dataset folder `root`.

    Args:
        field: the parameter that holds `name`, for messages.

    Raises:
        FileNotFoundError: the folder or the file is not there.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"there is no dataset folder {root!r}; put the raw data there or change `path` of "
            "the dataset in params.yaml"
        )
    path = Path(root, name)
    if not path.is_file():
        present = ", ".join(sorted(item.name for item in Path(root).iterdir())[:10]) or "nothing"
        raise FileNotFoundError(
            f"there is no annotation file {str(path)!r}; the folder holds {present}; change "
            f"`{field}` of the dataset in params.yaml"
        )
    return path


def read_text(path: Path) -> str:
    """Return the UTF-8 text of a file, unpacked when its name ends in `.gz`.

    Raises:
        ValueError: damaged gzip data, or bytes that are not UTF-8.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not UTF-8; the file must be UTF-8 text"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); get the file again") from error


def read_json(path: Path, *, ignored_keys: frozenset[str] = frozenset()) -> Any:
    """Return the content of a `.json` or `.json.gz` file, without the object members named in
    `ignored_keys`.

    Leaving out long unused members (the tokens of COCO's captions) while parsing halves the memory.

    Raises:
        ValueError: malformed JSON; the message has the file, the line and the column.
    """
    try:
        return json.loads(
            read_text(path),
            object_pairs_hook=lambda pairs: {
                key: value for key, value in pairs if key not in ignored_keys
            },
        )
    except RecursionError as error:
        raise ValueError(
            f"{path}: JSON nested too deeply to be an annotation file; repair or replace the file"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: line {error.lineno} column {error.colno}: malformed JSON ({error.msg}); "
            "repair or replace the file"
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of the lines of a text file that are not blank."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def member(entry: Any, key: str, kind: type[T], where: str) -> T:
    """Return `entry[key]` of a JSON object after checking that it is there and has the type `kind`.

    Raises:
        ValueError: not an object, no such member, or another type.
    """
    if not isinstance(entry, dict):
        raise ValueError(
            f"{where}: received {type(entry).__name__} {_short(entry)}, allowed is an object "
            f"with the member {key!r}"
        )
    if key not in entry:
        raise ValueError(
            f"{where}: the member {key!r} is missing; received the members {sorted(entry)}"
        )
    return of_type(entry[key], kind, f"{where}.{key}")


def of_type(value: Any, kind: type[T], where: str) -> T:
    """Return `value` after checking that it has the type `kind`."""
    if not isinstance(value, kind):
        raise ValueError(
            f"{where}: received {type(value).__name__} {_short(value)}, allowed is "
            f"{kind.__name__}; repair the file"
        )
    return value


def check_name(name: Any, where: str) -> str:
    """Return the image name when it is a relative path that stays inside its folder; raise
    ValueError otherwise.
    """
    of_type(name, str, where)
    parts = PurePosixPath(name.replace("\\", "/")).parts
    is_absolute = name.startswith(("/", "\\")) or bool(PureWindowsPath(name).drive)
    if not parts or is_absolute or ".." in parts or "\0" in name or not _is_unicode(name):
        raise ValueError(
            f"{where}: received image name {_short(name)}, allowed is a relative path without "
            "`..`; repair the file"
        )
    return str(name)


def check_caption(text: Any, where: str) -> str:
    """Return the caption, unchanged, when it is text with at least one visible character; raise
    ValueError otherwise.
    """
    of_type(text, str, where)
    if not text.strip() or not _is_unicode(text):
        raise ValueError(
            f"{where}: received caption {_short(text)}, allowed is text that is not empty; "
            "repair or remove the caption"
        )
    return str(text)


def check_captions(captions: Any, where: str) -> tuple[str, ...]:
    """Return the captions as a tuple when there is at least one and none is empty; raise ValueError
    otherwise.
    """
    if not isinstance(captions, list | tuple):
        raise ValueError(
            f"{where}: received {type(captions).__name__} {_short(captions)}, allowed is a list "
            "of captions; repair the file"
        )
    if not captions:
        raise ValueError(
            f"{where}: the image has no captions, allowed is at least one; add a caption or "
            "remove the image"
        )
    return tuple(
        check_caption(text, f"{where}[{position}]") for position, text in enumerate(captions)
    )


def check_split(split: Any, where: str, *, allowed: tuple[str, ...] = SPLITS) -> str:
    """Return the split name when it is one of `allowed`; raise ValueError otherwise."""
    if split not in allowed:
        raise ValueError(
            f"{where}: received split {_short(split)}, allowed is one of {', '.join(allowed)}; "
            "repair the file"
        )
    return str(split)


def text_digest(value: Any) -> str:
    """Return the sha256 of `value` as sorted, compact JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _short(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _is_unicode(text: str) -> bool:
    """Lone surrogates pass JSON but not Parquet."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
