"""Cache key = stage + its parameters + input digests + the code it uses; a hit counts only if the
artifact verifies.
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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, Timeout

from tasks.stages import STAGES
from tasks.store import artifacts, holding, reasons
from tasks.store.artifacts import Key, Ref
from tasks.store.code_digests import code_digest, modules_of

__all__ = ["Absent", "NotMade", "code_digest", "digest_files", "obtain"]

LOGGER = logging.getLogger("vl_distillery")
LOOK_SECONDS = 2.0  # as long as another run may verify what is there
_IS_LOOKING: contextvars.ContextVar[bool] = contextvars.ContextVar("is_looking", default=False)
_FORCED: contextvars.ContextVar[set[Path] | None] = contextvars.ContextVar("forced", default=None)
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
def forcing_once() -> Iterator[None]:
    """Let `force` build each artifact once in this block, however many cells ask for it; blocks
    inside belong to the outermost.
    """
    if _FORCED.get() is not None:
        yield
        return
    token = _FORCED.set(set())
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
        accept_code: keep an artifact whose key differs only in its code digest; the manifest
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
        force = force and folder not in (_FORCED.get() or ())
        if missing is not None:
            return _stand_in(folder, key, missing, force=force, accept_code=accept_code)
        manifest, reason = None, reasons.ABSENT
        try:
            manifest = artifacts.verify(folder)
        except artifacts.DamagedArtifact as damage:
            reason = f"damaged: {damage}"
        if manifest:
            if kept := None if force else _kept(folder, manifest, key, accept_code=accept_code):
                return kept
            reason = reasons.FORCED if force else reasons.changed(manifest, key)
        if is_looking:
            raise NotMade(folder, reason)
        because = None if reason == reasons.ABSENT else reason
        if because:
            LOGGER.log(
                logging.INFO if manifest else logging.WARNING, "rebuilding %s: %s", folder, because
            )
        facts = _facts()
        STAGES[key.stage].import_libraries()
        started = time.monotonic()

        def checked(work: Path) -> dict[str, Any]:
            more = build(work)
            if is_unchanged is not None and not is_unchanged():
                raise holding.Written("what " + key.stage + " read", "a file of it changed")
            return {**more, "seconds": time.monotonic() - started}

        manifest = artifacts.write(
            folder,
            key,
            checked,
            facts,
            modules=modules_of(key.code),
            because=because,
        )
        if (forced := _FORCED.get()) is not None:
            forced.add(folder)
        return Ref(str(folder), manifest.digest)


def _locked(folder: Path, is_looking: bool) -> AcquireReturnProxy:
    """Return the held lock of an artifact; who only looks does not wait for a build that goes
    on.
    """
    try:
        return artifacts.lock(folder).acquire(timeout=LOOK_SECONDS if is_looking else -1)
    except Timeout as error:
        raise NotMade(folder, reasons.UNDER_WAY) from error


def _kept(folder: Path, manifest: artifacts.Manifest, key: Key, *, accept_code: bool) -> Ref | None:
    """Return the verified artifact when it is that of `key`, or differs in code that is
    accepted.
    """
    if manifest.key == key.digest:
        artifacts.forget_work(folder, key)
        return Ref(str(folder), manifest.digest, is_cached=True)
    if not accept_code or set(reasons.changed_parts(manifest, key)) - {"code"}:
        return None
    _accept(folder, manifest, key)
    return Ref(str(folder), manifest.digest, is_cached=True)


def _accept(folder: Path, manifest: artifacts.Manifest, key: Key) -> None:
    accepted = artifacts.accept_code(folder, manifest, key, modules_of(key.code))
    LOGGER.warning("accepted %s as made by other code (%s)", folder, accepted.accepted_code)


class Absent(FileNotFoundError):
    """Files that are not on this machine; `names` are those that were asked for."""

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


def digest_files(
    find: Callable[[], Iterable[Path]],
) -> tuple[dict[str, str], FileNotFoundError | None]:
    """Return the sha256 of files by name; or nothing and the error, when `find` raises it or a file
    is not there.
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
        place = str(error) if error.filename is None else f"{error.filename} is not there"
        return {}, Absent(place, tuple(path.name for path in paths))


def _stand_in(
    folder: Path, key: Key, missing: FileNotFoundError, *, force: bool, accept_code: bool
) -> Ref:
    """Return the artifact in `folder` although some of its inputs cannot be looked at; `key` names
    those that can.
    """
    try:
        manifest = artifacts.verify(folder)
    except artifacts.DamagedArtifact as damage:
        raise FileNotFoundError(f"{missing}; no artifact can stand in: {damage}") from missing
    if manifest is None or force:
        raise missing
    known = artifacts.Manifest(
        **{**asdict(manifest), "inputs": {name: manifest.inputs.get(name) for name in key.inputs}}
    )
    changed = [
        part for part in reasons.changed_parts(known, key) if not (accept_code and part == "code")
    ]
    if changed:
        raise FileNotFoundError(
            f"{missing}; {folder} cannot stand in: other {' and '.join(changed)}"
        ) from missing
    others = [name for name in getattr(missing, "names", ()) if name not in manifest.inputs]
    if others:
        raise FileNotFoundError(
            f"{missing}; {folder} cannot stand in: it was not made from {', '.join(others)}"
        ) from missing
    if _IS_LOOKING.get():
        return Ref(str(folder), manifest.digest, is_cached=True)
    unseen = ", ".join(
        f"{name} {digest}" for name, digest in manifest.inputs.items() if name not in key.inputs
    )
    LOGGER.warning(
        "using %s as it is, made from %s, which cannot be compared: %s",
        folder,
        unseen or "unknown inputs",
        missing,
    )
    if manifest.code != key.code:
        _accept(folder, manifest, replace(key, inputs=manifest.inputs))
    return Ref(str(folder), manifest.digest, is_cached=True)


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
