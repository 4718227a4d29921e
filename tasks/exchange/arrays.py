"""Reads arrays that anybody made: npy, safetensors and Parquet, and lists of numbers in json and
csv.

No pickle is read. A file that cannot be read is refused with its name and key.
"""

from __future__ import annotations

import csv
import json
import re
import tokenize
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
    wanted = place.key or (names[0] if len(names) == 1 else name)
    if wanted not in names:
        raise ValueError(
            f"{place.path}: received no {wanted!r}{hint(wanted, names)}; allowed: "
            f"{', '.join(names) or 'none'}; write FILE:KEY to name the one that is {name}"
        )
    return wanted


def _tensor(array: np.ndarray, place: Place) -> Tensor:
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise _refused(place, f"the type {array.dtype}")
    # PyTorch takes the byte order of this machine alone
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _json(place: Place, name: str) -> list[int]:
    try:
        found: Any = json.loads(place.path.read_text())
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
        # Spreadsheets write a mark at the start of the file, which would be part of the first name
        with place.path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            rows, header = list(reader), list(reader.fieldnames or [])
        if column not in header:
            named = ", ".join(map(repr, header[:20])) or "nothing"
            raise ValueError(f"no {column!r} in the header {named}{other_delimiter(header)}")
        images = [int(row[column]) for row in rows]
        captions = [int(row["caption"]) for row in rows] if rows and "caption" in rows[0] else None
        if not all(map(_is_index, images)):
            raise ValueError("a number of more than 18 digits")
    except (TypeError, ValueError, csv.Error) as error:
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


def _is_index(value: object) -> bool:
    # No bool, which is an int to Python, and far from the end of int64
    return type(value) is int and abs(value) < 10**18


def _refused(place: Place, received: str) -> ValueError:
    return ValueError(f"{place}: received {received}; {NEEDED}, never a pickle; change the file")
