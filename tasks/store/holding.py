"""Holds the inputs of a build: it reads what its key says, whatever other runs, workers or DVC put
in their place.

Inside `inputs`, artifacts are read through hard links in the work folder of the build. A link keeps
the file that was checked, also when another run replaces the artifact. Our programs never write
into a finished file. A write by anybody else is found when the build ends.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.store import manifests
from tasks.store.manifests import MANIFEST, DamagedArtifact

_Stamp = tuple[int, int, int, int]
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
_PATIENCE_SECONDS = 1.0
# {stamp of a file: sha256}: what this process read once is not read again. Links of one file have
# one stamp.
_DIGESTS: dict[_Stamp, str] = {}


class Replaced(ValueError):
    """An input is no longer what the key of a build says."""

    def __init__(self, what: object, reason: str) -> None:
        super().__init__(
            f"{what} is not what this run found there before ({reason}): another program replaced "
            "or changed it, such as a run with other settings in the same folders; nothing was "
            "written from it; run again when the other has ended, or give each its own profile"
        )


class Written(Replaced):
    """An input was replaced, and the build may have read what came instead."""


class Held:
    """The artifacts that one build reads, linked below `place`."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._folders: dict[tuple[Path, str], Path] = {}
        self._stamps: dict[Path, _Stamp] = {}

    def folder(self, folder: Path, digest: str) -> Path:
        """Return links to the files of an artifact, checked against its digest when they are made.

        Raises:
            Replaced: `folder` holds something else, also a moment later.
        """
        if (folder, digest) not in self._folders:
            try:
                self._folders[folder, digest] = self._link(folder, digest)
            except (DamagedArtifact, FileNotFoundError):
                # It may be in the middle of being replaced; then a moment later it is whole
                time.sleep(_PATIENCE_SECONDS)
                try:
                    self._folders[folder, digest] = self._link(folder, digest)
                except (DamagedArtifact, FileNotFoundError) as error:
                    raise Replaced(folder, str(error)) from error
        return self._folders[folder, digest]

    def check(self) -> None:
        """Raise `Written` where a file was written to since it was checked."""
        for link, stamp in self._stamps.items():
            if _stamp(link.stat()) != stamp:
                raise Written(link.relative_to(self._place), "it was written to")

    def _link(self, folder: Path, digest: str) -> Path:
        target = self._place / folder.relative_to(folder.anchor)
        shutil.rmtree(target, ignore_errors=True)
        manifest = manifests.read(folder)
        if manifest.digest != digest:
            raise DamagedArtifact(f"{folder}: other content")
        stamps = {}
        # The manifest last: what a kill leaves behind is whole, or has none
        for name in (*manifest.files, MANIFEST):
            link = target / name
            link.parent.mkdir(parents=True, exist_ok=True)
            _link(folder / name, link)
            stamps[link] = _stamp(link.stat())
            # The link is read, not the name: the name may get another file in between
            if name != MANIFEST and known_digest(link) != manifest.files[name]:
                raise DamagedArtifact(f"{folder}: file {name} has other content")
        self._stamps.update(stamps)
        return target


_HELD: contextvars.ContextVar[Held | None] = contextvars.ContextVar("held", default=None)


@contextlib.contextmanager
def inputs(place: Path) -> Iterator[None]:
    """Let `folder_of` give links below `place` in this block; they are removed at its end.

    Raises:
        Written: at the end, when a file that was read has been written to meanwhile.
    """
    shutil.rmtree(place, ignore_errors=True)
    held = Held(place)
    token = _HELD.set(held)
    try:
        yield
    finally:
        _HELD.reset(token)
        try:
            # Also after a build that failed: its checkpoint may come from what was written
            held.check()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def folder_of(folder: Path, digest: str) -> Path:
    """Return where to read an artifact: its links inside `inputs`, its own folder elsewhere."""
    held = _HELD.get()
    return folder if held is None else held.folder(folder, digest)


def were_changed(place: Path) -> bool:
    """Whether the links that a killed build left below `place` were written to while it ran."""
    for found in place.rglob(MANIFEST):
        try:
            files = manifests.read(found.parent).files
            if any(file_digest(found.parent / name) != digest for name, digest in files.items()):
                return True
        except DamagedArtifact:
            return True
    return False


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, read in blocks, and remember it."""
    with path.open("rb") as handle:
        before = _stamp(os.fstat(handle.fileno()))
        # The stamp before and after: a file that was written to meanwhile is not remembered
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if _stamp(os.fstat(handle.fileno())) == before:
            _DIGESTS[before] = digest
    return digest


def known_digest(path: Path) -> str:
    """Return the sha256 of a file, which is read unless this process did and nobody wrote to it."""
    return _DIGESTS.get(_stamp(path.stat())) or file_digest(path)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _link(source: Path, link: Path) -> None:
    """Link a file; copy it where the file system has no links, or it lies on another one."""
    try:
        # Resolved, since DVC may put a symbolic link there: the link must hold its target
        os.link(source.resolve(), link)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, link)
