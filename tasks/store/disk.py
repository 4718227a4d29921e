"""Turns what a disk refuses to write into one message: path, space, and where to change it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A full disk, the quota of a user, and the limit of a user on the size of a file
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class Refused(OSError):
    """A disk is full, read-only, or closed to this user; the message says all of it."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raise `Refused` in place of an error of the disk in this block, which writes into `folder`.

    Its message tells the bytes of `folder` when it failed, so use it inside of what removes them.
    """
    try:
        yield
    except OSError as error:
        found = refusal(error, folder)
        if found is None:
            raise
        raise found from error


def refusal(error: OSError, folder: Path | None = None) -> Refused | None:
    """Return the message of an error of the disk, or None for every other one.

    Args:
        folder: what was written; its size is the least that is needed.
    """
    if isinstance(error, Refused) or error.errno not in (*_FULL, *_FORBIDDEN):
        return None
    path = Path(error.filename or folder or ".")
    # The nearest folder that exists: free space can be asked of that alone
    place = next(one for one in (path, *path.absolute().parents) if one.exists())
    if error.errno in _FORBIDDEN:
        problem = (
            "allowed is what this user may read and write; change the owner or the rights of "
            f"{place}, or put the folder of data/ and reports/ where it can be written"
        )
    else:
        problem = _full(place, _size(folder))
    return Refused(error.errno, f"{path}: {error.strerror}; {problem}")


def in_words(error: OSError) -> str:
    """Return the message of any error of the system: its file, what is wrong, what to change."""
    found = refusal(error)
    # Messages of ours have no number
    if found is not None or error.errno is None or error.strerror is None:
        return str(found or error)
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return (
        f"{' and '.join(named) or 'a file'}: {error.strerror}; allowed is a file or folder that is "
        "there, or that can be made there; change the option or parameter that names it, or what "
        "lies there"
    )


@contextmanager
def reachable(option: str, target: Path) -> Iterator[None]:
    """Raise ValueError where this block cannot make a target that a user named.

    Args:
        option: names the target.

    Raises:
        Refused: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise refusal(error, target.parent) or error from error
        raise ValueError(
            f"{option}: received {target}, which cannot be made ({error.strerror}: "
            f"{error.filename or target}); allowed is a place in a folder that this user may write "
            f"to; change {option}"
        ) from error


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise `Refused` where a disk has no room for what is about to be written into `folder`."""
    if num_bytes > shutil.disk_usage(folder).free:
        number = errno.ENOSPC
        raise Refused(number, f"{folder}: {os.strerror(number)}; {_full(folder, num_bytes)}")


def _full(place: Path, num_bytes: int) -> str:
    usage = shutil.disk_usage(place)
    return (
        f"needed are more than {num_bytes:,} bytes, {usage.free:,} of {usage.total:,} bytes are "
        f"free at {place}; free some, raise the quota or the limit of this user, or put data/ and "
        "reports/ on a larger disk"
    )


def _size(folder: Path | None) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if folder is None:
        return 0
    if folder.is_file():
        return folder.stat().st_size
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
