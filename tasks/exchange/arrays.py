"""Reads arrays that anybody made: npy, safetensors and Parquet, and lists of numbers in json and
csv.

No pickle is read. A file that cannot be read is refused with its name and key.
"""

from __future__ import annotations

import csv
import json
import re
import tokenize
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tasks.core.data.text_rows import other_delimiter
from tasks.core.foundations.names import hint

# Numpy reads the header of an npy file as an expression of Python
_NPY_ERRORS = (ValueError, EOFError, MemoryError, SyntaxError, TypeError, tokenize.TokenError)
_LISTS = pyarrow.FixedSizeListArray | pyarrow.ListArray | pyarrow.LargeListArray
_WHOLE = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)
MAX_DIGITS = 18  # far from the end of int64
# The names under which arrays of one kind lie, with which nothing is mistaken for another
ROLES = ("image_embeds", "text_embeds", "caption_image_idx")
NEEDED = "allowed are .npy, .safetensors and .parquet files"


@dataclass(frozen=True)
class Place:
    """Where an array lies: `FILE`, or `FILE:KEY` for one of several tensors or columns."""

    path: Path
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place that a user wrote."""
        # A path may hold colons: a key follows only after one of these endings
        found = re.fullmatch(r"(.+\.(?:safetensors|parquet|csv)):([^/:]+)", text)
        return cls(Path(found[1]), found[2]) if found else cls(Path(text))

    def __str__(self) -> str:
        return str(self.path) if self.key is None else f"{self.path}:{self.key}"


def read_array(place: Place, name: str) -> Tensor:
    """Return an array of numbers, of any shape and type.

    Args:
        name: what the array holds, for messages. It is also the key that is taken where the file
            has several and the user names none.

    Raises:
        ValueError: the file is no such file, or has no such key.
        FileNotFoundError: it is not there.
    """
    reader = _READERS.get(place.path.suffix.lower())
    if reader is None:
        raise _refused(place, f"a file of the kind {place.path.suffix or 'without a name'!r}")
    if not place.path.is_file():
        raise FileNotFoundError(f"{place.path} is not there; {NEEDED}; change the path of {name}")
    try:
        return reader(place, name)
    except (OSError, SafetensorError, pyarrow.ArrowException) as error:
        raise _refused(place, f"what cannot be read ({error})") from error


def names_of(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file."""
    try:
        with safe_open(str(path), "pt") as handle:
            return sorted(handle.keys())
    except SafetensorError as error:
        raise _refused(Place(path), f"what cannot be read ({error})") from error


def read_integers(place: Place, name: str) -> Tensor:
    """Return a list of integers (T,) int64, also of json and csv.

    A json holds a list, or an object with the list under `name`. A csv has a column `image`. It may
    have a column `caption`, the number of the caption that a row belongs to.

    Raises:
        ValueError: as `read_array`, or numbers that are not whole.
    """
    suffix = place.path.suffix.lower()
    if suffix in (".json", ".csv") and place.path.is_file():
        values = (_json if suffix == ".json" else _csv)(place, name)
        return torch.tensor(values, dtype=torch.int64)
    if suffix in (".json", ".csv"):
        raise FileNotFoundError(f"{place.path} is not there; change the path of {name}")
    found = read_array(place, name)
    if found.ndim != 1 or found.dtype not in _WHOLE:
        raise ValueError(
            f"{place}: {name}: received {tuple(found.shape)} of {found.dtype}; allowed is (T,) of "
            "an integer type, the image of each caption from 0; change the file"
        )
    return found.long()


def _npy(place: Place, name: str) -> Tensor:
    try:
        found = np.load(place.path, allow_pickle=False)
    except _NPY_ERRORS as error:
        raise _refused(place, "pickled objects, or what is no whole npy file") from error
    # Numpy opens an archive of arrays by its content, whatever its ending
    if not isinstance(found, np.ndarray):
        found.close()
        raise _refused(place, "an archive of several arrays (npz)")
    return _tensor(found, place)


def _safetensors(place: Place, name: str) -> Tensor:
    with safe_open(str(place.path), "pt") as handle:
        return handle.get_tensor(_key(place, name, sorted(handle.keys())))


def _parquet(place: Place, name: str) -> Tensor:
    names = pyarrow.parquet.read_schema(place.path).names
    key = _key(place, name, names)
    column = pyarrow.parquet.read_table(place.path, columns=[key])[key].combine_chunks()
    if not len(column):
        raise _refused(Place(place.path, key), "no rows")
    if column.null_count:
        raise _refused(Place(place.path, key), f"{column.null_count} empty rows")
    if not isinstance(column, _LISTS):
        return _tensor(column.to_numpy(zero_copy_only=False), Place(place.path, key))
    widths = set(pyarrow.compute.list_value_length(column).to_pylist())
    values = column.flatten()
    if len(widths) > 1 or values.null_count:
        raise _refused(Place(place.path, key), f"rows of {sorted(widths)[:5]} numbers, or gaps")
    flat = _tensor(values.to_numpy(zero_copy_only=False), Place(place.path, key))
    return flat.view(len(column), -1)


_READERS: dict[str, Callable[[Place, str], Tensor]] = {
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}


def _key(place: Place, name: str, names: list[str]) -> str:
    # The only one is taken, unless its name says that it is something else: with two files in the
    # other order both directions would be swapped
    is_it = len(names) == 1 and (names[0] == name or names[0] not in ROLES)
    wanted = place.key or (names[0] if is_it else name)
    if wanted not in names:
        # The names of roles are near to each other, and one is never meant for another
        meant = hint(wanted, names) if place.key else ""
        raise ValueError(
            f"{place.path}: received no {wanted!r}{meant}; allowed: {', '.join(names) or 'none'}; "
            f"write FILE:KEY to name the one that is {name}"
        )
    return wanted


def _tensor(array: np.ndarray, place: Place) -> Tensor:
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise _refused(place, f"the type {array.dtype}")
    # PyTorch takes the byte order of this machine alone
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _json(place: Place, name: str) -> list[int]:
    try:
        found = read_json(place.path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: received no json ({error}); change the file") from error
    if isinstance(found, dict):
        found = found.get(name)
    if not isinstance(found, list) or not all(map(_is_index, found)):
        raise ValueError(
            f"{place}: {name}: received {str(found)[:60]!r}; allowed is a list of integers, or an "
            f"object with one under {name!r}; change the file"
        )
    return found


def _csv(place: Place, name: str) -> list[int]:
    column = place.key or "image"
    try:
        header, rows = read_rows(place.path)
        if column not in header:
            named = ", ".join(map(repr, header[:20])) or "nothing"
            raise ValueError(f"no {column!r} in the header {named}{other_delimiter(header)}")
        images = [whole_number(row[column]) for row in rows]
        captions = _column(rows, "caption")
    except ValueError as error:
        raise ValueError(
            f"{place}: {name}: received {error}; allowed is a header with `{column}`, and whole "
            "numbers in its column and in `caption`; change the file"
        ) from error
    if captions is None:
        return images
    if sorted(captions) != list(range(len(captions))):
        raise ValueError(
            f"{place}: caption: received {len(captions)} rows that do not name each of 0 to "
            f"{len(captions) - 1} once; allowed is one row a caption; change the file"
        )
    return [image for _, image in sorted(zip(captions, images, strict=True))]


def _column(rows: list[dict[str, str]], name: str) -> list[int] | None:
    """Return the numbers of a column that a table may have; None without it."""
    for other in rows[0] if rows else ():
        # Left unread, it would leave the rows in another order than it says
        if other != name and other.casefold() == name:
            raise ValueError(f"the column {other!r}, which is read as {name!r} alone")
    return [whole_number(row[name]) for row in rows] if rows and name in rows[0] else None


def read_json(path: Path) -> Any:
    """Return the content of a json.

    Raises:
        ValueError: it is none, or an object has a key twice, of which Python takes the last.
        RecursionError: it is nested too deeply.
    """
    return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_members)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once([key for key, _ in pairs])
    return dict(pairs)


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header of a csv and its rows by the names there. Cells stay as they are written.

    Raises:
        ValueError: a column is there twice, or a row has more or fewer cells than the header.
    """
    # Spreadsheets write a mark at the start of the file, which would be part of the first name
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            # Blanks behind a comma belong to no name: ` caption` would be another column
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader if cells]
        except csv.Error as error:
            raise ValueError(str(error)) from error
    _check_once(header)
    for number, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f"{len(cells)} cells in line {number}, beside {len(header)} in the header"
            )
    return header, [dict(zip(header, cells, strict=True)) for _, cells in lines]


def _check_once(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} twice, of which one alone would be read")


def whole_number(text: str) -> int:
    """Return the number that a cell holds; raise ValueError for anything else.

    Python alone would read `1_0` as 10, and the digits of every script.
    """
    if not re.fullmatch(r"[-+]?[0-9]+", text.strip()):
        raise ValueError(f"{text[:60]!r}, which is no whole number")
    if len(text.strip()) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return int(text)


def _is_index(value: object) -> bool:
    # No bool, which is an int to Python
    return type(value) is int and abs(value) < 10**MAX_DIGITS


def _refused(place: Place, received: str) -> ValueError:
    return ValueError(f"{place}: received {received}; {NEEDED}, never a pickle; change the file")
