"""Digests of what was fetched: `raw/digests.json`, which git keeps, has those of the first time.

A digest that a source states is checked beside it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tasks.core.foundations import durable

RAW = Path("raw")
NOTE = RAW / "digests.json"


class AnotherFile(ValueError):
    """What came is not the file that was stated or recorded."""


def check(path: Path, url: str, stated: str) -> None:
    """Check a file, and record its digest when its address is fetched for the first time.

    Args:
        url: the address without its query.
        stated: `md5:...` or `sha256:...` of a source, or nothing.

    Raises:
        AnotherFile: it is not the one that was stated or recorded.
        ValueError: the note is damaged.
    """
    known = _read()
    digest, num_bytes = _digest(path, "sha256"), path.stat().st_size
    if stated:
        kind, _, expected = stated.partition(":")
        received = digest if kind == "sha256" else _digest(path, kind)
        if received != expected:
            raise AnotherFile(
                f"{url}: received {num_bytes:,} bytes with the {kind} {received}, expected is "
                f"{expected}; what came is damaged or another file, and is removed; run again, or "
                "get it another way and use --from-dir"
            )
    recorded = known.get(url)
    if recorded is not None and recorded != {"sha256": digest, "bytes": num_bytes}:
        raise AnotherFile(
            f"{url}: received {num_bytes:,} bytes with the sha256 {digest}, recorded is {recorded} "
            f"in {NOTE}; what came is damaged or has changed there, and is removed; run again, or "
            f"remove the record of {NOTE} to take the new one"
        )
    if recorded is None:
        known[url] = {"sha256": digest, "bytes": num_bytes}
        NOTE.parent.mkdir(exist_ok=True)
        durable.write_text(NOTE, json.dumps(known, indent=1, sort_keys=True) + "\n")


def is_recorded(url: str) -> bool:
    """Whether the file of an address is known, so that parts of two versions would be seen."""
    return url in _read()


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, kind).hexdigest()


def _read() -> dict[str, Any]:
    if not NOTE.is_file():
        return {}
    try:
        known = json.loads(NOTE.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{NOTE}: is no JSON ({error}); restore it by git") from error
    if not isinstance(known, dict):
        raise ValueError(f"{NOTE}: received a {type(known).__name__}, allowed is an object")
    return known
