"""Digests of raw files by content, each read once: `data/.digests.json` remembers them by place,
size and time of change.

The digest is of the content alone. So a copy of the raw data on another machine, with other times,
fits the artifacts that `dvc pull` brought. The note is of this machine; without it raw files are
read again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from tasks.core.foundations import durable
from tasks.stages import DATA
from tasks.store import holding

NOTE = DATA / ".digests.json"


class RawFiles:
    """Gives the sha256 of a file; use it inside `remembered()`."""

    def __init__(self, known: dict[str, list[object]]) -> None:
        self.known, self.is_changed = known, False

    def __call__(self, path: Path) -> str:
        """Return the sha256 of the content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        # Size and time stand for the content here: raw data are large, and nobody edits them
        status, place = path.stat(), str(path.resolve())
        stamp = [status.st_size, status.st_mtime_ns]
        entry = self.known.get(place)
        if entry is None or entry[:2] != stamp:
            entry = self.known[place] = [*stamp, holding.file_digest(path)]
            self.is_changed = True
        return str(entry[2])


@contextlib.contextmanager
def remembered() -> Iterator[RawFiles]:
    """Read the note, and write it when something new was read; a damaged note is as good as
    none.
    """
    try:
        known = json.loads(NOTE.read_text())
    except (OSError, ValueError):
        known = {}
    files = RawFiles(known if isinstance(known, dict) else {})
    yield files
    if files.is_changed:
        NOTE.parent.mkdir(parents=True, exist_ok=True)
        durable.write_text(NOTE, json.dumps(files.known))
