"""Checkpoints inside a long computation: tensors and a small JSON state in one safetensors file,
replaced atomically.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from tasks.core.foundations.tensor_files import load_tensors, save_tensors

NAME = ".checkpoint.safetensors"


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint; a kill at any moment leaves the old or the new one, never a half."""
    temporary = path.with_name(path.name + ".new")
    save_tensors(
        temporary,
        {name: value.detach().cpu() for name, value in tensors.items()},
        {"state": json.dumps(state)},
    )
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return (tensors on the CPU, state) of `save_checkpoint`, or None when there is no
    checkpoint.
    """
    if not path.is_file():
        return None
    with safe_open(str(path), "pt") as handle:
        state = json.loads(handle.metadata()["state"])
    return load_tensors(path), state
