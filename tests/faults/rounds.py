"""How often a fault is tried: a few times in CI, more often where `FAULT_ROUNDS` says so."""

from __future__ import annotations

import os
import random
from pathlib import Path


def rounds(usual: int) -> int:
    """Return the number of tries of a fault."""
    return int(os.environ.get("FAULT_ROUNDS", usual))


def flip(path: Path, draw: random.Random) -> None:
    """Change one byte of a file, in place."""
    place = draw.randrange(path.stat().st_size)
    with path.open("r+b") as handle:
        handle.seek(place)
        byte = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([byte ^ draw.randrange(1, 256)]))
