"""The cache: `obtain` returns an artifact, found by its key or built.

The key holds the stage, its parameters, the digests of its inputs and the code that it uses. A hit
counts only if the artifact verifies.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.metadata
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, Timeout

from tasks.stages import STAGES
from tasks.store import artifacts, holding, reasons, stand_ins, travel
from tasks.store.artifacts import Key, Ref
from tasks.store.code_digests import code_digest, modules_of
from tasks.store.manifests import MANIFEST, Manifest
from tasks.store.stand_ins import StandIn

__all__ = ["Absent", "NotMade", "code_digest", "digest_files", "obtain"]

LOGGER = logging.getLogger("vl_distillery")
LOOK_SECONDS = 2.0  # as long as another run may verify what is there
_IS_LOOKING: contextvars.ContextVar[bool] = contextvars.ContextVar("is_looking", default=False)
_FORCED: contextvars.ContextVar[float | None] = contextvars.ContextVar("forced", default=None)
_VERSIONED = ("torch", "timm", "transformers", "numpy", "pillow", "faiss-cpu", "vl-distillery")


class NotMade(Exception):
    """Inside `looking()`: the artifact in `folder` was asked for, and would have to be built.

    Attributes:
        reason: why, as in the log; `reasons.ABSENT` when nothing is there.
    """

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder} would be made, because {reason}")
        self.folder, self.reason = folder, reason


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Only find artifacts in this block: `obtain` raises `NotMade` instead of building one."""
    token = _IS_LOOKING.set(True)
    try:
        yield
    finally:
        _IS_LOOKING.reset(token)


@contextlib.contextmanager
def forcing_once(since: float | None = None) -> Iterator[None]:
    """Let `force` build each artifact once in this block, however many cells ask for it.

    A block inside of another one changes nothing.

    Args:
        since: seconds since 1970. An artifact that any process made later is not built again. None
            stands for the start of the block.
    """
    if _FORCED.get() is not None:
        yield
        return
    token = _FORCED.set(time.time() if since is None else since)
    try:
        yield
    finally:
        _FORCED.reset(token)


def obtain(
    folder: Path,
    key: Key,
    build: Callable[[Path], dict[str, Any]],
    *,
    force: bool = False,
    accept_code: bool = False,
    missing: FileNotFoundError | None = None,
    is_unchanged: Callable[[], bool] | None = None,
) -> Ref:
    """Return the artifact in `folder` for `key`, building it unless a verified one with the same
    key is there.

    Args:
        force: build even when a valid artifact is there; see `forcing_once`.
        accept_code: keep an artifact that differs from `key` only in its code digest; the manifest
            records it.
        missing: why `key` lacks inputs: raw data or weights that are not on this machine. Nothing
            can be built then; an artifact that agrees in all else (one that `dvc pull` brought) is
            used, with a warning.
        is_unchanged: whether inputs outside of `data/` (raw data, weights) are still those of
            `key`; asked when they have been read.

    Raises:
        Replaced: an input changed before it was read to its end, see `holding`.
        NotMade: inside `looking()`, when the artifact would have to be built.
        FileNotFoundError: `missing`, when no artifact can stand in.
    """
    is_looking = _IS_LOOKING.get()
    with _locked(folder, is_looking):
        # Under the lock: who waited for another run finds what that run made
        force = force and not _was_forced(folder)
        if missing is not None:
            stands_in = StandIn(folder, key, missing, accept_code=accept_code)
            return stands_in.find(is_looking=is_looking, is_refused=force)
        kept, reason, is_damaged = _there(folder, key, force=force, accept_code=accept_code)
        if is_looking and kept is None:
            raise NotMade(folder, reason)
        # A forced artifact has to be computed here, so that the store is not asked
        if kept is None and not force:
            kept = travel.pull(folder, key)
        if kept is not None:
            # Also after a hit: an earlier push may have failed
            if not is_looking:
                travel.push(folder, kept, key)
            return Ref(str(folder), kept.digest, is_cached=True)
        because = None if reason == reasons.ABSENT else reason
        if because:
            level = logging.WARNING if is_damaged else logging.INFO
            LOGGER.log(level, "rebuilding %s: %s", folder, because)
        manifest = _made(folder, key, build, because, is_unchanged)
        travel.push(folder, manifest, key, is_forced=force)
        return Ref(str(folder), manifest.digest)


def _was_forced(folder: Path) -> bool:
    """Whether the artifact was made since the block of `forcing_once` began.

    The time of the manifest's file tells, so that all processes of a sweep agree.
    """
    since, manifest = _FORCED.get(), folder / MANIFEST
    return since is not None and manifest.exists() and manifest.stat().st_mtime >= since


def _locked(folder: Path, is_looking: bool) -> AcquireReturnProxy:
    """Return the held lock of an artifact.

    Raises:
        NotMade: inside `looking()`, when another run holds it for more than `LOOK_SECONDS`.
    """
    try:
        return artifacts.lock(folder).acquire(timeout=LOOK_SECONDS if is_looking else -1)
    except Timeout as error:
        raise NotMade(folder, reasons.UNDER_WAY) from error


def _there(
    folder: Path, key: Key, *, force: bool, accept_code: bool
) -> tuple[Manifest | None, str, bool]:
    """Return (manifest, "", False) when the artifact can be used: it has this key, or differs only
    in code and that is accepted.

    Else return (None, why it is made again, whether it is damaged).
    """
    try:
        manifest = artifacts.verify(folder)
    except artifacts.DamagedArtifact as damage:
        return None, f"damaged: {damage}", True
    if manifest is None:
        return None, reasons.ABSENT, False
    if force:
        return None, reasons.FORCED, False
    if manifest.key == key.digest:
        # A build that was killed after its last replace leaves its work folder
        artifacts.forget_work(folder, key)
        return manifest, "", False
    if accept_code and not set(reasons.changed_parts(manifest, key)) - {"code"}:
        return stand_ins.accept(folder, manifest, key), "", False
    return None, reasons.changed(manifest, key), False


def _made(
    folder: Path,
    key: Key,
    build: Callable[[Path], dict[str, Any]],
    because: str | None,
    is_unchanged: Callable[[], bool] | None,
) -> Manifest:
    facts = _facts()
    # Before the clock starts: see `Stage.libraries`
    STAGES[key.stage].import_libraries()
    started = time.monotonic()

    def checked(work: Path) -> dict[str, Any]:
        more = build(work)
        # Raw files are not held by links, so that they are compared once more after they were read
        if is_unchanged is not None and not is_unchanged():
            raise holding.Written("what " + key.stage + " read", "a file of it changed")
        return {**more, "seconds": time.monotonic() - started}

    return artifacts.write(
        folder, key, checked, facts, modules=modules_of(key.code), because=because
    )


class Absent(FileNotFoundError):
    """Files that are not on this machine; `names` are those that were asked for."""

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


def digest_files(
    find: Callable[[], Iterable[Path]],
) -> tuple[dict[str, str], FileNotFoundError | None]:
    """Return ({name: sha256}, None) of files, or ({}, error) when one is not on this machine.

    Args:
        find: gives the paths; it may raise `FileNotFoundError` for what it cannot find.

    Raises:
        ValueError: a path is there, but is no regular file.
    """
    paths: list[Path] = []
    try:
        paths = list(find())
        for path in paths:
            if path.exists() and not path.is_file():
                raise ValueError(
                    f"{path}: no regular file, but a folder, a pipe or a device; change the "
                    "parameter that names it"
                )
        return {path.name: holding.known_digest(path) for path in paths}, None
    except FileNotFoundError as error:
        # Errors of the system name a file; those of `find` have a message of their own
        place = str(error) if error.filename is None else f"{error.filename} is not there"
        return {}, Absent(place, tuple(path.name for path in paths))


@functools.cache
def git_state() -> dict[str, Any]:
    """Return {"commit": str | None, "is_dirty": bool | None} of the working directory's
    repository.
    """
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "is_dirty": None}
    return {"commit": commit, "is_dirty": bool(status.strip())}


def _facts() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for name in _VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "git": dict(git_state()),
        "versions": versions,
        "machine": f"{platform.machine()} {platform.system()}",
    }
