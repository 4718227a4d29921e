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
# The mark cannot occur in the state: that is a string inside JSON, where quotes are escaped
_MARK = f'"{_DIGEST}":"'.encode()
_LENGTH = 64  # characters of a digest
_BLOCK = 2**20
Parts = dict[str, dict[str, Tensor]]


def save_checkpoint(path: Path, parts: Parts, state: dict[str, Any]) -> None:
    """Write a checkpoint, and keep the previous one beside it. A kill at any moment leaves at least
    one that is whole.

    Args:
        parts: {part: {name: tensor}}; an empty part is not stored.
        state: JSON-serialisable facts.

    Raises:
        OSError: the file cannot be written; the previous checkpoint stays.
    """
    temporary = path.with_name(path.name + ".new")
    tensors = {}
    for part, named in parts.items():
        for name, value in named.items():
            tensors[f"{part}/{name}"] = value.detach().cpu()
    try:
        # Zeros hold the place of the digest, which is known only when the file is written
        save_tensors(temporary, tensors, {"state": json.dumps(state), _DIGEST: "0" * _LENGTH})
        with temporary.open("r+b") as handle:
            place, _, digest = _read_digests(temporary)
            handle.seek(place)
            handle.write(digest)
        sync(temporary)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    # A kill between these two renames leaves the previous checkpoint, which `load_checkpoint` takes
    if path.exists():
        os.replace(path, _before(path))
    os.replace(temporary, path)
    sync(path.parent)


def load_checkpoint(path: Path) -> tuple[Parts, dict[str, Any]] | None:
    """Return (parts on the CPU, state) of the newest checkpoint that is whole, or None.

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
    """Return the place of the digest in the file, the digest there, and the digest of all other
    bytes.
    """
    with path.open("rb") as handle:
        # A safetensors file begins with the length of its JSON header, 8 bytes. Tensors follow it.
        size = 8 + int.from_bytes(handle.read(8), "little")
        handle.seek(0)
        header = handle.read(min(size, path.stat().st_size))
        # Without the mark the header is damaged. The bytes found here then differ from the digest.
        place = header.find(_MARK) + len(_MARK)
        found = hashlib.sha256(header[:place] + header[place + _LENGTH :])
        while block := handle.read(_BLOCK):
            found.update(block)
    return place, header[place : place + _LENGTH], found.hexdigest().encode()
