"""Reads annotation files of caption datasets, and holds the checks that all readers and the
preparation share.

`where` in these functions is the place that a value came from, "<file>: <field>", and starts every
message. `image_files.py` finds the images.
"""

from __future__ import annotations

import bisect
import gzip
import hashlib
import json
import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from tasks.core.data.file_kinds import HEAD_BYTES, kind_of, kind_of_annotations
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.foundations.records import SPLITS

# Largest annotation file, bytes. Parsed, it takes a few times as much memory.
_MAX_BYTES = 1 << 29
# A gzip file may unpack to the larger of this multiple of its size and this many bytes. Text
# shrinks to a fifth, so what unpacks to more is no annotation file.
_MAX_RATIO, _MIN_LIMIT = 50, 1 << 26
# Reasons under which `LeftOut` counts
REPEATED = "member of a JSON object that is there twice; the last counts"
_MALFORMED = "malformed entry"
# A list or an object in a text column, as json or Python writes it.
_NESTED = re.compile(r"""\s*(\[\s*["'].*["']\s*\]|\{\s*["'].*\})\s*""", re.DOTALL)

T = TypeVar("T")


@dataclass(frozen=True)
class Annotation:
    """The entry of an annotation file about one image: its name, its split, its captions, and the
    place of the entry.
    """

    name: str
    split: str
    captions: tuple[str, ...]
    where: str


def dataset_folder(root: str) -> Path:
    """Return the dataset folder; raise FileNotFoundError when it is not there."""
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"there is no dataset folder {root!r}; put the raw data there, by hand or by "
            "`vl-distillery fetch`, or change `path` of the dataset in params.yaml or by --set "
            "prepare_data.options.path=FOLDER; `~` and variables are taken as typed"
        )
    return Path(root)


def first_names(folder: Path) -> str:
    """Return the first names in a folder, for messages."""
    names = sorted(os.listdir(folder))
    return ", ".join(names[:10]) or "nothing"


def annotation_path(root: str, name: str, field: str) -> Path:
    """Return the path of annotation file `name` inside the dataset folder `root`.

    Args:
        field: the parameter that holds `name`, for messages.

    Raises:
        FileNotFoundError: the folder or the file is not there.
        ValueError: the file is too large to be read at once.
    """
    path = dataset_folder(root) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no annotation file {str(path)!r}; the folder holds "
            f"{first_names(Path(root))}; change `{field}` of the dataset in params.yaml or by "
            f"--set prepare_data.options.{field}=FILE"
        )
    num_bytes = path.stat().st_size
    if num_bytes > _MAX_BYTES:
        raise ValueError(
            f"{path}: has {num_bytes:,} bytes, allowed are {_MAX_BYTES:,}, since it is read at "
            "once; write the dataset for the reader `webdataset` or `parquet`, which stream"
        )
    return path


def read_text(path: Path) -> str:
    """Return the UTF-8 text of a file, unpacked when its name ends in `.gz`.

    Raises:
        ValueError: damaged gzip data, another format, or bytes that are not UTF-8.
    """
    try:
        return decode_text(_content(path), str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); get the file again") from error


def decode_text(data: bytes, where: str) -> str:
    """Return bytes as UTF-8 text without the byte order mark; raise Unusable for other bytes."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(
            where,
            "text that is not UTF-8",
            f"byte {error.start} is not UTF-8; captions and names must be UTF-8 text",
        ) from error


def _content(path: Path) -> bytes:
    """Return the bytes of a file, unpacked if its name ends in `.gz`."""
    # Unpacked in blocks, so that the limit stops it in time: ten megabytes of packed zeros would
    # become ten gigabytes
    limit = max(_MIN_LIMIT, _MAX_RATIO * path.stat().st_size)
    data = bytearray()
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
        # A picture or an archive is named as such, before anything tries to decode it
        data += handle.read(HEAD_BYTES)
        kind = kind_of(bytes(data)) if data else None
        if kind is not None:
            raise ValueError(f"{path}: it is {kind}; allowed is UTF-8 text")
        while block := handle.read(1 << 20):
            data += block
            if len(data) > limit:
                raise ValueError(
                    f"{path}: unpacks to more than {limit} bytes, {_MAX_RATIO} times its size; "
                    "no annotation file does; get the file again"
                )
    return bytes(data)


def read_json(path: Path, left_out: LeftOut, *, ignored_keys: frozenset[str] = frozenset()) -> Any:
    """Return the content of a `.json` or `.json.gz` file.

    Args:
        left_out: counts members that are there twice; the last one is taken.
        ignored_keys: members of objects that are left out while parsing. Without long unused
            members (the tokens of COCO's captions) it takes half the memory.

    Raises:
        ValueError: malformed JSON; the message has the file, the line and the column.
    """
    return parse_json(read_text(path), str(path), left_out, ignored_keys)


def parse_json(
    text: str, where: str, left_out: LeftOut, ignored_keys: frozenset[str] = frozenset()
) -> Any:
    """Return the value of JSON text, see `read_json`; raise Unusable when it is no JSON."""
    problem = "JSON nested too deeply to hold captions"

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        kept = [pair for pair in pairs if pair[0] not in ignored_keys]
        # JSON allows a key twice and Python keeps the last silently, so it is counted here
        found = dict(kept)
        if len(found) < len(kept):
            [(key, _)] = Counter(key for key, _ in kept).most_common(1)
            left_out.mention(REPEATED, f"{where}: {_short(key)}")
        return found

    try:
        return json.loads(text, object_pairs_hook=members)
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno} column {error.colno}: malformed JSON ({error.msg})"
    except RecursionError:
        pass
    except ValueError as error:  # Python refuses a number of thousands of digits
        problem = f"malformed JSON ({error})"
    raise Unusable(
        where, "malformed JSON", f"{problem}{kind_of_annotations(text)}; repair or replace it"
    )


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) for the lines of a text file that are not blank."""
    return lines_of(read_text(path))


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) for the lines that are not blank. Lines end with LF or CRLF, or
    all of them with CR.
    """
    # Not `splitlines`, which also splits at characters that captions may hold, such as U+2028
    end = "\n" if "\n" in text else "\r"
    for number, line in enumerate(text.split(end), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def member(entry: Any, key: str, kind: type[T], where: str) -> T:
    """Return `entry[key]` of a JSON object after checking that it is there and has the type `kind`.

    Raises:
        ValueError: not an object, no such member, or another type.
    """
    if not isinstance(entry, dict):
        raise _wrong_type(entry, where, f"an object with the member {key!r}")
    if key not in entry:
        raise Unusable(
            where,
            _MALFORMED,
            f"the member {key!r} is missing; received the members {sorted(entry)[:20]}"
            f"{kind_of_annotations(entry)}",
        )
    return of_type(entry[key], kind, f"{where}.{key}")


def of_type(value: Any, kind: type[T], where: str) -> T:
    """Return `value` after checking that it has the type `kind`."""
    if not isinstance(value, kind):
        raise _wrong_type(value, where, kind.__name__)
    return value


def check_name(name: Any, where: str) -> str:
    """Return the image name when it is a relative path that stays inside its folder; raise Unusable
    otherwise.
    """
    of_type(name, str, where)
    # Names may come from Windows: `\` separates too, and `C:` begins an absolute path
    parts = set(name.replace("\\", "/").split("/"))
    is_absolute = name.startswith(("/", "\\")) or name[1:2] == ":"
    is_empty = parts <= {"", "."}
    if is_empty or is_absolute or ".." in parts or "\0" in name or not _is_unicode(name):
        raise Unusable(
            where,
            "image name that is no relative path",
            f"received image name {_short(name)}, allowed is a relative path without `..`; "
            "repair the file",
        )
    return str(name)


def compared(name: str) -> str:
    """Return the form in which names are compared: Unicode's NFC, and `/` as separator. macOS
    writes another Unicode form, and Windows writes `\\`.
    """
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))).as_posix()


def nearest(name: str, names: Sequence[str]) -> str:
    """Return words that continue a message with the file name most like `name`, or "" without one.

    Args:
        names: sorted by `str.casefold`, so that names with the same beginning are neighbours.
    """
    last = PurePosixPath(name).name.casefold()
    place = bisect.bisect(names, last, key=str.casefold)
    neighbours = names[max(0, place - 1) : place + 1]
    near = max(neighbours, key=lambda other: _num_shared(last, other.casefold()), default="")
    return f", the nearest name there is {near!r}" if near else ""


def check_caption(text: Any, where: str) -> str:
    """Return the caption, unchanged, when it is text with a letter, a digit or a symbol.

    Raises:
        Unusable: it is no such text, holds zero bytes, or is a list or object written as text.
    """
    of_type(text, str, where)
    # L, N and S are Unicode's letters, numbers and symbols; an emoji is a symbol
    if not any(unicodedata.category(letter)[0] in "LNS" for letter in text) or not _is_unicode(
        text
    ):
        raise Unusable(
            where,
            "caption without a word",
            f"received caption {_short(text)}, allowed is text that is not empty, with a letter, a "
            "digit or a symbol; repair or remove the caption",
        )
    if "\0" in text:
        raise Unusable(
            where,
            "caption with zero bytes",
            f"zero bytes are among the text {_short(text)}; get the file again",
        )
    if _NESTED.fullmatch(text):
        raise Unusable(
            where,
            "list or object written as text",
            f"received caption {_short(text)}, allowed is the text of one caption; write each "
            "caption of the list by itself",
        )
    return str(text)


def check_captions(captions: Any, where: str) -> tuple[str, ...]:
    """Return the captions as a tuple when there is at least one and `check_caption` takes all;
    raise Unusable otherwise.
    """
    if not isinstance(captions, list | tuple):
        raise _wrong_type(captions, where, "a list of captions")
    if not captions:
        raise Unusable(
            where,
            "image without captions",
            "the image has no captions, allowed is at least one; add a caption or remove the image",
        )
    return tuple(
        check_caption(text, f"{where}[{position}]") for position, text in enumerate(captions)
    )


def check_split(split: Any, where: str, *, allowed: tuple[str, ...] = SPLITS) -> str:
    """Return the split name when it is one of `allowed`; raise Unusable otherwise."""
    if split not in allowed:
        raise Unusable(
            where,
            "unknown split",
            f"received split {_short(split)}, allowed is one of {', '.join(allowed)}; repair the "
            "file",
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


def _wrong_type(value: Any, where: str, allowed: str) -> Unusable:
    reason = "null in place of a value" if value is None else _MALFORMED
    return Unusable(
        where,
        reason,
        f"received {type(value).__name__} {_short(value)}, allowed is {allowed}"
        f"{kind_of_annotations(value)}; repair the file",
    )


def _num_shared(one: str, other: str) -> int:
    """Return the length of the beginning that two names share."""
    length = 0
    for letter, other_letter in zip(one, other, strict=False):
        if letter != other_letter:
            break
        length += 1
    return length


def _short(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _is_unicode(text: str) -> bool:
    """Return whether text can be encoded. JSON may hold lone surrogates, which Parquet refuses."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
