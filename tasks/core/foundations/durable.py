"""Files that outlive a power cut: written beside their place, synced and renamed."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names inside a folder, are on the disk."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def write_text(path: Path, text: str) -> None:
    """Write a small file. A kill at any moment leaves the old or the new file, an error the old.

    Raises:
        OSError: the file cannot be written; the error names the path.
    """
    # In the same folder, since a rename is atomic only within a file system. The process id keeps
    # two writers apart.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        # The order matters: content first, then the name, then the folder that holds the name
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
