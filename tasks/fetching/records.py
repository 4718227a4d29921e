"""Digests of what was fetched, in `raw/digests.json`: each address has that of its first download.

Git keeps the file. A digest that a source states is checked too. A digest is recorded only when the
whole dataset is there and right: a server may answer with something else than the file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tasks.core.foundations import durable
from tasks.store import artifacts

RAW = Path("raw")
NOTE = RAW / "digests.json"
Record = dict[str, Any]  # sha256, bytes


class AnotherFile(ValueError):
    """What came is not the file that was stated or recorded."""


def check(path: Path, key: str, stated: str) -> Record:
    """Return the record of a file, compared with the stated and the recorded digest where there is
    one.

    Args:
        path: the file.
        key: stands for its address, see `File.key`.
        stated: `md5:...` or `sha256:...` of a source, or nothing.

    Raises:
        AnotherFile: it is not the one that was stated or recorded.
        ValueError: the note is damaged.
    """
    digest, num_bytes = _digest(path, "sha256"), path.stat().st_size
    if stated:
        kind, _, expected = stated.partition(":")
        received = digest if kind == "sha256" else _digest(path, kind)
        if received != expected:
            raise AnotherFile(
                f"{key}: received {num_bytes:,} bytes with the {kind} {received}, expected is "
                f"{expected}; what came is damaged or another file, and is removed; run again, or "
                "get it another way and use --from-dir"
            )
    record = {"sha256": digest, "bytes": num_bytes}
    _compare(key, record, _read())
    return record


def keep(new: dict[str, Record]) -> None:
    """Record what was fetched for the first time, by key.

    Raises:
        AnotherFile: another run recorded something else meanwhile.
        ValueError: the note is damaged.
    """
    # Two runs that read the same note would each lose what the other adds
    with artifacts.lock(NOTE):
        known = _read()
        for key, record in new.items():
            _compare(key, record, known)
        if not new.keys() <= known.keys():
            NOTE.parent.mkdir(exist_ok=True)
            text = json.dumps({**known, **new}, indent=1, sort_keys=True)
            durable.write_text(NOTE, f"{text}\n")


def is_recorded(key: str) -> bool:
    """Whether the digest of an address is known, so that a file made of two versions is seen."""
    return key in _read()


def _compare(key: str, record: Record, known: dict[str, Any]) -> None:
    recorded = known.get(key, record)
    if recorded != record:
        raise AnotherFile(
            f"{key}: received {record['bytes']:,} bytes with the sha256 {record['sha256']}, "
            f"recorded is {recorded} in {NOTE}; what came is damaged or has changed there, and is "
            f"removed; run again, or remove the record of {NOTE} to take the new one"
        )


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
