"""Finds pictures of validation and test among those that students are trained on.

Equal are pictures with the same pixels at the size of the profile: copies of a file, whatever their
names. No key covers this, since it changes nothing that is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.core.data.left_out import printable
from tasks.core.foundations.file_names import IMAGES, NAMES
from tasks.core.foundations.tensor_files import map_tensor

HELD_OUT = ("val", "test")


def digest_of(picture: np.ndarray) -> str:
    """Return the sha256 of a picture (S, S, 3) uint8."""
    return hashlib.sha256(np.ascontiguousarray(picture).data).hexdigest()


def held_out(prepared: Path) -> dict[str, tuple[str, str]]:
    """Return {digest: (split, name)} of the pictures of `HELD_OUT`."""
    return {digest: (split, name) for digest, split, name in _digests(prepared, HELD_OUT)}


def shared(prepared: Path) -> list[str]:
    """Return the pictures that an earlier split has too, in the order train, val, test, each as
    `<split> <name> = <split> <name>`.
    """
    first: dict[str, tuple[str, str]] = {}
    found = []
    for digest, split, name in _digests(prepared, ("train", *HELD_OUT)):
        own, other = first.setdefault(digest, (split, name))
        if own != split:
            found.append(printable(f"{split} {name} = {own} {other}"))
    return found


def _digests(prepared: Path, splits: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (digest, split, name) of the pictures of some splits, in their order."""
    names, images = pd.read_parquet(prepared / NAMES), map_tensor(prepared / IMAGES, "images")
    for row, (name, split) in enumerate(zip(names["name"], names["split"], strict=True)):
        if split in splits:
            yield digest_of(images[row]), split, name
