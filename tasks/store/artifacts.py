"""Atomic artifact folders: written in a work folder, moved into place, with a manifest that names
every file's sha256.

An artifact exists only while its manifest verifies. Work folders are named by key and place, so
that a stage killed in the middle finds its checkpoint there when it starts again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from tasks.core.foundations.durable import sync
from tasks.stages import DATA
from tasks.store import disk, holding, manifests
from tasks.store.holding import file_digest
from tasks.store.manifests import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedArtifact,
    Facts,
    Manifest,
    canonical_digest,
)

_INPUTS, _NEW = ".inputs", ".new"


@dataclass(frozen=True)
class Ref:
    """Reference to an artifact: its folder and the digest of its content (not of its manifest's
    times).
    """

    path: str
    digest: str
    is_cached: bool = False

    @property
    def folder(self) -> Path:
        """Where to read the content: inside a build, links that other runs cannot replace."""
        return holding.folder_of(Path(self.path), self.digest)


@dataclass(frozen=True)
class Key:
    """What an artifact depends on; two equal keys mean the same bytes on one machine with one
    thread count.
    """

    stage: str
    params: dict[str, Any]
    inputs: dict[str, str]
    code: str

    @property
    def digest(self) -> str:
        return canonical_digest(asdict(self))


def verify(folder: Path) -> Manifest | None:
    """Return the manifest of `folder`, or None when there is no such folder, or it holds folders
    alone.

    Raises:
        DamagedArtifact: the manifest is missing or unreadable, or a file is missing or differs.
    """
    # Folders alone are other artifacts, such as the `presets` of a report that is not made
    if not folder.exists() or all(item.is_dir() for item in folder.iterdir()):
        return None
    manifest = manifests.read(folder)
    for name, digest in manifest.files.items():
        if not (folder / name).is_file():
            raise DamagedArtifact(f"{folder}: file {name} is missing")
        if file_digest(folder / name) != digest:
            raise DamagedArtifact(f"{folder}: file {name} does not match its sha256 in {MANIFEST}")
    return manifest


def confirm(refs: Iterable[Ref]) -> None:
    """Check that artifacts are still what their references say, after they were read outside of a
    build.

    Raises:
        Replaced: one is not.
    """
    for ref in refs:
        try:
            manifest = verify(Path(ref.path))
        except DamagedArtifact as error:
            raise holding.Replaced(ref.path, str(error)) from error
        if manifest is None or manifest.digest != ref.digest:
            raise holding.Replaced(ref.path, "it has other content")


def work_folder(key: Key, folder: Path, data: Path = DATA) -> Path:
    """Return the work folder of an artifact; it outlives an interrupted build and holds its
    checkpoint.

    The folder is part of its name: two profiles with one key must not share a work folder.
    """
    return data / ".work" / canonical_digest([key.digest, str(folder)])[:24]


def forget_work(folder: Path, key: Key) -> None:
    """Remove the work folder of a build that was killed just after its artifact was whole."""
    shutil.rmtree(work_folder(key, folder), ignore_errors=True)


def lock(folder: Path, data: Path = DATA) -> FileLock:
    """Return the lock that serialises builds of one artifact across processes."""
    locks = data / ".locks"
    with disk.explained(locks):
        locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{canonical_digest(str(folder))[:24]}.lock")


def write(
    folder: Path,
    key: Key,
    build: Callable[[Path], dict[str, Any]],
    facts: dict[str, Any],
    *,
    modules: dict[str, str] | None = None,
    because: str | None = None,
) -> Manifest:
    """Build an artifact in its work folder and move it to `folder`, replacing an older one.

    `build(work)` writes the files and returns more facts for the manifest. What it reads through
    `Ref.folder` is held, see `holding`. Hidden items (checkpoints) are no part of the artifact.
    They outlive a kill, also one while the files are moved. When `build` raises, `folder` is left
    as it was; an empty work folder is removed.

    Raises:
        Replaced: an input is no longer what `key` says. Nothing is written then. Where the build
            read what came instead (`Written`), no checkpoint stays.
    """
    work = work_folder(key, folder)
    held = work / _INPUTS
    # Links are there only after a kill, which came before they could be checked
    if holding.were_changed(held):
        # The checkpoint beside them may come from what was changed
        shutil.rmtree(work)
    with disk.explained(work):
        work.mkdir(parents=True, exist_ok=True)
        _clear(work)
    try:
        with disk.explained(work):
            with holding.inputs(held):
                more = build(work)
            manifest = seal(work, key, {**facts, **more}, modules=modules, because=because)
        with disk.explained(folder):
            _move(work, folder)
    # Its checkpoints may come from wrong inputs, so that nothing is kept
    except holding.Written:
        shutil.rmtree(work)
        raise
    # Also an interrupt by the user: the checkpoint stays for the next run
    except BaseException:
        _clear(work)
        if not any(work.iterdir()):
            work.rmdir()
        raise
    return manifest


def adopt(arrived: Path, folder: Path, key: Key) -> None:
    """Move an artifact that came from elsewhere to `folder`, replacing what is there.

    Args:
        arrived: a folder inside the work folder, with what the manifest names and nothing else.
    """
    for path in (*arrived.rglob("*"), arrived):
        sync(path)
    with disk.explained(folder):
        _move(arrived, folder)
    forget_work(folder, key)


def seal(
    folder: Path,
    key: Key,
    facts: dict[str, Any],
    *,
    modules: dict[str, str] | None = None,
    because: str | None = None,
) -> Manifest:
    """Write the manifest of a folder from the files that lie in it, and return it."""
    files = {
        str(path.relative_to(folder)): path
        for item in _visible(folder)
        for path in sorted((item, *item.rglob("*")))
        if path.is_file() and path.name != MANIFEST
    }
    # The manifest claims that the files are there, so that the disk has to have them first
    for path in {*files.values(), *(path.parent for path in files.values())}:
        sync(path)
    manifest = Manifest(
        key=key.digest,
        stage=key.stage,
        params=key.params,
        inputs=key.inputs,
        code=key.code,
        files={name: file_digest(path) for name, path in files.items()},
        facts=cast(Facts, facts),
        modules=modules or {},
        because=because,
    )
    manifests.write(folder, manifest)
    return manifest


def accept_code(folder: Path, manifest: Manifest, key: Key, modules: dict[str, str]) -> Manifest:
    """Record that an artifact made by other code is accepted as it is, under the key of today's
    code.
    """
    accepted = replace(
        manifest,
        key=key.digest,
        code=key.code,
        modules=modules,
        accepted_code=manifest.code,
        format_version=FORMAT_VERSION,
    )
    manifests.write(folder, accepted)
    return accepted


def _move(work: Path, folder: Path) -> None:
    """Move the content of `work` into `folder`, the manifest last, and remove `work`.

    File by file: `folder` may lie on another disk, or be the place where one is mounted. Folders
    in it that the old manifest does not name are somebody else's, as the `presets` beside a
    report, and are not touched. Until the end the old manifest stands, which verifies only while
    its own files are all there.
    """
    # A new folder outlives a power cut only when the folder above it is synced too
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in made:
        sync(place.parent)
    source = work
    # `os.replace` works within one disk only: copy to the target's disk first, under a hidden name
    if work.stat().st_dev != folder.stat().st_dev:
        source = folder / _NEW
        shutil.rmtree(source, ignore_errors=True)
        try:
            shutil.copytree(work, source, ignore=shutil.ignore_patterns(".*"))
        except BaseException:
            shutil.rmtree(source, ignore_errors=True)
            raise
        for path in source.rglob("*"):
            sync(path)
    # From here until the last replace the old manifest names files that are gone: a kill in between
    # is seen as damage
    for item in _own(folder):
        if item.name != MANIFEST:
            _remove(item)
    for item in sorted(_visible(source), key=lambda item: item.name == MANIFEST):
        # No file can replace a folder
        if (folder / item.name).is_dir():
            shutil.rmtree(folder / item.name)
        if item.name == MANIFEST:
            sync(folder)  # the disk has what it names before it has the manifest
        os.replace(item, folder / item.name)
    sync(folder)
    shutil.rmtree(source)
    shutil.rmtree(work, ignore_errors=True)


def _visible(folder: Path) -> list[Path]:
    """Return what lies in a folder under a name that does not start with a dot, in order."""
    return sorted(item for item in folder.iterdir() if not item.name.startswith("."))


def _clear(work: Path) -> None:
    """Remove what a build wrote, but for its checkpoints."""
    for item in _visible(work):
        _remove(item)


def _remove(item: Path) -> None:
    shutil.rmtree(item) if item.is_dir() else item.unlink()


def _own(folder: Path) -> list[Path]:
    """Return the files in a folder, and the folders in it that its manifest names."""
    try:
        # Only these folders may go: any other one is an artifact of its own
        named = {Path(name).parts[0] for name in manifests.read(folder).files}
    except DamagedArtifact:
        named = set()
    return [item for item in folder.iterdir() if item.name in named or not item.is_dir()]
