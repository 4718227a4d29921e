"""Folders outside of `data/`, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tasks.store import artifacts

FACTS = "set.json"


@contextlib.contextmanager
def whole(target: Path, *, is_replaced: bool) -> Iterator[Path]:
    """Give a hidden folder beside `target`, and rename it to `target` when the block is done.

    When the block raises nothing is left. What a kill left goes with the next call.

    Raises:
        ValueError: something is there, and is not to be replaced or is no export.
    """
    target = target.resolve()
    work, old = (target.with_name(f".{target.name}.{end}") for end in ("partial", "old"))
    with artifacts.lock(target):
        _check(target, is_replaced=is_replaced)
        for left in (work, old):
            shutil.rmtree(left, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            yield work
            for path in work.rglob("*"):  # safetensors writes for its user alone
                if path.is_file():
                    path.chmod(work.stat().st_mode & 0o666)
            if target.exists():
                os.replace(target, old)
            os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _check(target: Path, *, is_replaced: bool) -> None:
    if not os.path.lexists(target):
        return
    if not is_replaced:
        raise ValueError(
            f"--to: received {target}, which exists; allowed is a name that is free; choose "
            "another, or replace an older export with --replace"
        )
    if not (target / FACTS).is_file():
        raise ValueError(
            f"--to: received {target}, which holds no {FACTS}; --replace removes exports of this "
            "program only; choose another name"
        )
