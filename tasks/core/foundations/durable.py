"""Files that outlive a power cut: written beside their place, synced and renamed."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Let what was written into a file, or renamed inside a folder, reach the disk."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def write_text(path: Path, text: str) -> None:
    """Write a small file; a kill at any moment leaves the old or the new one, an error the old.

    Raises:
        OSError: the file cannot be written; it has the path.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
