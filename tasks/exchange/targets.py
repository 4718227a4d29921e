"""Folders outside of `data/`, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tasks.stages import DATA, REPORTS
from tasks.store import artifacts, disk

CARD, FACTS = "README.md", "set.json"


@contextlib.contextmanager
def whole(target: Path, *, is_replaced: bool) -> Iterator[Path]:
    """Give a hidden folder beside `target`, and rename it to `target` when the block is done.

    When the block raises, the hidden folder is removed and an older `target` stays. The next call
    removes what a kill left.

    Args:
        is_replaced: whether an older export in `target` may go.

    Raises:
        ValueError: something is there, and is not to be replaced, or is not an export alone.
    """
    target = Path(os.path.realpath(target))  # `resolve` raises for a link that leads to itself
    work, old = (target.with_name(f".{target.name}.{end}") for end in ("partial", "old"))
    # Two exports to one folder would write into one hidden folder
    with artifacts.lock(target):
        with disk.reachable("--to", target):
            # A kill between the two renames left the older export under its hidden name
            _bring_back(old, target)
            _check(target, is_replaced=is_replaced)
            for left in (work, old):
                shutil.rmtree(left, ignore_errors=True)
            work.mkdir(parents=True)
        try:
            yield work
            for path in work.rglob("*"):  # safetensors writes for its user alone
                if path.is_file():
                    path.chmod(work.stat().st_mode & 0o666)
            # Two renames, since no folder can replace one that holds files
            if target.exists():
                os.replace(target, old)
            os.replace(work, target)
        finally:
            _bring_back(old, target)
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _bring_back(old: Path, target: Path) -> None:
    """Undo the first of the two renames where the second did not follow."""
    if old.exists() and not os.path.lexists(target):
        os.replace(old, target)


def _check(target: Path, *, is_replaced: bool) -> None:
    for room in (DATA, REPORTS):
        if target.is_relative_to(room.resolve()):
            raise ValueError(
                f"--to: received {target}, inside of {room}/, which the pipeline writes; allowed "
                "is a folder outside of it; change --to"
            )
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
    there = {str(path.relative_to(target)) for path in target.rglob("*") if _is_item(path)}
    foreign = sorted(there - {CARD, FACTS} - _named(target / FACTS))
    if foreign:
        raise ValueError(
            f"--to: received {target}, which holds {', '.join(foreign[:3])}, {len(foreign)} in "
            f"all, which its {FACTS} does not name; --replace removes what an export wrote alone; "
            "move them, or choose another name"
        )


def _is_item(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir()


def _named(facts: Path) -> set[str]:
    """Return the files that an export names; none where it cannot be read."""
    try:
        return set(json.loads(facts.read_text())["files"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return set()
