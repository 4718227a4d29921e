"""Checkpoints inside a long computation: tensors and a small JSON state in one safetensors file,
replaced atomically.

The header holds the sha256 of all other bytes of the file. A damaged checkpoint is never resumed
from: the one before it is used, or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from tasks.core.foundations.durable import sync
from tasks.core.foundations.tensor_files import load_tensors, save_tensors

NAME = ".checkpoint.safetensors"
_DIGEST = "sha256"
_MARK = f'"{_DIGEST}":"'.encode()  # state is a string inside JSON: its own quotes are escaped
_LENGTH = 64  # characters of a digest
_BLOCK = 2**20
Parts = dict[str, dict[str, Tensor]]


def save_checkpoint(path: Path, parts: Parts, state: dict[str, Any]) -> None:
    """Write a checkpoint, and keep the one before it beside it. A kill at any moment leaves a whole
    one.

    Args:
        parts: tensors by name, in named parts; an empty part is not stored.
        state: JSON-serialisable facts.
    """
    temporary = path.with_name(path.name + ".new")
    tensors = {}
    for part, named in parts.items():
        for name, value in named.items():
            tensors[f"{part}/{name}"] = value.detach().cpu()
    try:
        save_tensors(temporary, tensors, {"state": json.dumps(state), _DIGEST: "0" * _LENGTH})
        with temporary.open("r+b") as handle:
            place, _, digest = _read_digests(temporary)
            handle.seek(place)
            handle.write(digest)
        sync(temporary)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    # Two renames: a kill between them leaves the one before, which `load_checkpoint` takes
    if path.exists():
        os.replace(path, _before(path))
    os.replace(temporary, path)
    sync(path.parent)


def load_checkpoint(path: Path) -> tuple[Parts, dict[str, Any]] | None:
    """Return (parts on the CPU, state) of the last whole `save_checkpoint`, or None when there is
    none.

    A damaged file is named in a warning and renamed to `<name>.damaged`.
    """
    for file in (path, _before(path)):
        if not file.is_file():
            continue
        _, stored, digest = _read_digests(file)
        if stored == digest:
            with safe_open(str(file), "pt") as handle:
                state = json.loads(handle.metadata()["state"])
            parts: Parts = {}
            for place, value in load_tensors(file).items():
                part, _, name = place.partition("/")
                parts.setdefault(part, {})[name] = value
            return parts, state
        aside = file.with_name(file.name + ".damaged")
        os.replace(file, aside)
        warnings.warn(
            f"checkpoint {file} does not match its sha256; it is left as {aside.name}, and the "
            "computation goes on from the checkpoint before it, or from its start",
            stacklevel=2,
        )
    return None


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".before")


def _read_digests(path: Path) -> tuple[int, bytes, bytes]:
    """Return where in the file its digest stands, the digest there, and that of all other bytes."""
    with path.open("rb") as handle:
        size = 8 + int.from_bytes(handle.read(8), "little")
        handle.seek(0)
        header = handle.read(min(size, path.stat().st_size))
        # A header without the mark is damaged: what stands at this place is no digest then
        place = header.find(_MARK) + len(_MARK)
        found = hashlib.sha256(header[:place] + header[place + _LENGTH :])
        while block := handle.read(_BLOCK):
            found.update(block)
    return place, header[place : place + _LENGTH], found.hexdigest().encode()
