"""Atomic artifact folders: written in a work folder, renamed into place, with a manifest that names
every file's sha256.

An artifact exists only while its manifest verifies. Work folders are named by key, so that a stage
killed in the middle finds its checkpoint there when it starts again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from tasks.stages import DATA
from tasks.store import manifests
from tasks.store.manifests import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedArtifact,
    Facts,
    Manifest,
    canonical_digest,
)


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
        return Path(self.path)


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


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def verify(folder: Path) -> Manifest | None:
    """Return the manifest of `folder`, or None when there is no such folder, or one that holds no
    file of its own.

    Raises:
        DamagedArtifact: the manifest is missing or unreadable, or a file is missing or differs.
    """
    if not folder.exists() or all(item.is_dir() for item in folder.iterdir()):
        return None
    manifest = manifests.read(folder)
    for name, digest in manifest.files.items():
        if not (folder / name).is_file():
            raise DamagedArtifact(f"{folder}: file {name} is missing")
        if file_digest(folder / name) != digest:
            raise DamagedArtifact(f"{folder}: file {name} does not match its sha256 in {MANIFEST}")
    return manifest


def work_folder(key: Key, data: Path = DATA) -> Path:
    """Return the work folder of a key; it outlives an interrupted build and holds its
    checkpoint.
    """
    return data / ".work" / key.digest[:24]


def lock(folder: Path, data: Path = DATA) -> FileLock:
    """Return the lock that serialises builds of one artifact across processes."""
    locks = data / ".locks"
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
    """Build an artifact in its work folder and rename it to `folder`, replacing an older one.

    `build(work)` writes the files and returns more facts for the manifest. Files whose name starts
    with a dot (checkpoints) are removed before the rename. When `build` raises, `folder` is left as
    it was; an empty work folder is removed, a checkpoint stays for the next try.
    """
    work = work_folder(key)
    work.mkdir(parents=True, exist_ok=True)
    try:
        more = build(work)
    except BaseException:
        if not any(item.name.startswith(".") for item in work.iterdir()):
            shutil.rmtree(work)
        raise
    for item in list(work.rglob(".*")):
        item.unlink()
    files = {
        str(path.relative_to(work)): path
        for path in sorted(work.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    for path in files.values():
        _fsync(path)
    manifest = Manifest(
        key=key.digest,
        stage=key.stage,
        params=key.params,
        inputs=key.inputs,
        code=key.code,
        files={name: file_digest(path) for name, path in files.items()},
        facts=cast(Facts, {**facts, **more}),
        modules=modules or {},
        because=because,
    )
    manifests.write(work, manifest)
    _replace(work, folder)
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


def _replace(work: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        old = work.with_name(work.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(work, folder)
        _move_foreign(old, folder)
        shutil.rmtree(old)
    else:
        os.replace(work, folder)


def _move_foreign(old: Path, folder: Path) -> None:
    """Move the folders that the old manifest does not name: somebody else's, as `reports/presets`
    beside the report.
    """
    try:
        named = {Path(name).parts[0] for name in manifests.read(old).files}
    except DamagedArtifact:
        named = set()
    for item in list(old.iterdir()):
        if item.is_dir() and item.name not in named and not (folder / item.name).exists():
            os.replace(item, folder / item.name)


def _fsync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
