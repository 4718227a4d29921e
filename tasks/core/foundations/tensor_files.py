"""Writes and reads tensors as safetensors files, whole or through a memory map."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

_DTYPES: dict[str, Any] = {
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors to `path`; equal inputs give equal bytes.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    # Sorted by name, so that the order of the dictionary does not change the file
    rows = {name: tensors[name].contiguous() for name in sorted(tensors)}
    try:
        save_file(rows, str(path), metadata=metadata)
    except SafetensorError as error:
        # The library gives the error number of the system only inside its message
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a file written by `save_tensors`, on the CPU."""
    return load_file(str(path))


def map_tensor(path: Path, name: str, *, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """Return the tensor `name` as a memory map of its own shape and dtype.

    Args:
        mode: `r` is read-only. `c` is copy-on-write: the file never changes, and torch takes the
            array without a copy.

    Raises:
        ValueError: the file has no such tensor, or its dtype has no numpy counterpart.
    """
    # A safetensors file is the length of its header (8 bytes, little endian), the JSON header, and
    # the tensors. The header has their places after its own end.
    with path.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        header = json.loads(handle.read(length))
    entry = header.get(name)
    if entry is None or entry["dtype"] not in _DTYPES:
        names = sorted(key for key in header if key != "__metadata__")
        raise ValueError(
            f"{path}: cannot map tensor {name!r}; the file has {names}, mappable dtypes are "
            f"{sorted(_DTYPES)}"
        )
    offset = 8 + length + entry["data_offsets"][0]
    return np.memmap(
        path, dtype=_DTYPES[entry["dtype"]], mode=mode, offset=offset, shape=tuple(entry["shape"])
    )


def tensor_bytes(path: Path) -> int:
    """Return the bytes of all tensors in a file, from its header alone."""
    with path.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
    return path.stat().st_size - 8 - int(length)


def tensor_names(path: Path) -> list[str]:
    """Return the sorted names of the tensors in a file."""
    with safe_open(str(path), "pt") as handle:
        return sorted(handle.keys())
