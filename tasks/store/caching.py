"""Cache key = stage + its parameters + input digests + the code it uses; a hit counts only if the
artifact verifies.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import functools
import importlib.metadata
import importlib.util
import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tasks.stages import STAGES
from tasks.store import artifacts
from tasks.store.artifacts import Key, Ref

LOGGER = logging.getLogger("vl_distillery")
_IS_LOOKING: contextvars.ContextVar[bool] = contextvars.ContextVar("is_looking", default=False)
_FORCED: contextvars.ContextVar[set[Path] | None] = contextvars.ContextVar("forced", default=None)
_VERSIONED = ("torch", "timm", "transformers", "numpy", "pillow", "faiss-cpu", "vl-distillery")


class NotMade(Exception):
    """Inside `looking()`: the artifact in `folder` was asked for, and would have to be built."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not there for these parameters, inputs and code")
        self.folder = folder


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

    Raises:
        NotMade: inside `looking()`, when the artifact would have to be built.
        FileNotFoundError: `missing`, when no artifact can stand in.
    """
    is_looking = _IS_LOOKING.get()
    with artifacts.lock(folder):
        force = force and folder not in (_FORCED.get() or ())
        if missing is not None:
            return _stand_in(folder, key, missing, force=force, accept_code=accept_code)
        manifest = None
        try:
            manifest = artifacts.verify(folder)
        except artifacts.DamagedArtifact as damage:
            if not is_looking:
                LOGGER.warning("rebuilding %s: %s", folder, damage)
        if manifest and not force:
            if manifest.key == key.digest:
                return Ref(str(folder), manifest.digest, is_cached=True)
            is_code_only = not set(_difference(manifest, key)) - {"code"}
            if accept_code and is_code_only:
                manifest = artifacts.accept_code(folder, manifest, key)
                LOGGER.warning(
                    "accepted %s as made by other code (%s)", folder, manifest.accepted_code
                )
                return Ref(str(folder), manifest.digest, is_cached=True)
            if not is_looking:
                LOGGER.info(
                    "rebuilding %s: changed %s",
                    folder,
                    " and ".join(_difference(manifest, key)) or "format",
                )
        if is_looking:
            raise NotMade(folder)
        facts = _facts()
        STAGES[key.stage].import_libraries()
        started = time.monotonic()
        manifest = artifacts.write(
            folder, key, lambda work: {**build(work), "seconds": time.monotonic() - started}, facts
        )
        if (forced := _FORCED.get()) is not None:
            forced.add(folder)
        return Ref(str(folder), manifest.digest)


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
        return {path.name: artifacts.file_digest(path) for path in paths}, None
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
    changed = [part for part in _difference(known, key) if not (accept_code and part == "code")]
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
        manifest = artifacts.accept_code(folder, manifest, replace(key, inputs=manifest.inputs))
        LOGGER.warning("accepted %s as made by other code (%s)", folder, manifest.accepted_code)
    return Ref(str(folder), manifest.digest, is_cached=True)


def code_digest(modules: Iterable[str]) -> str:
    """Return the digest of the static import closure of `modules` inside `tasks.core`, and of the
    modules themselves.

    Comments, docstrings and layout do not count: the digest is over the syntax trees.
    """
    closure: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name not in closure:
            closure.add(name)
            pending.extend(_imports(name))
    return artifacts.canonical_digest({name: _tree_digest(name) for name in closure})


@functools.cache
def _source(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"no source for module {module!r}, whose code is part of a cache key; see "
            "tasks/stages.py"
        )
    return ast.parse(Path(spec.origin).read_text())


@functools.cache
def _tree_digest(module: str) -> str:
    tree = _source(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        is_documented = isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        )
        if (
            is_documented
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0] = ast.Pass()
    return artifacts.canonical_digest(ast.dump(tree))


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    found = []
    for node in ast.walk(_source(module)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if name.startswith("tasks.core.") and _is_module(name))


@functools.cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _difference(manifest: artifacts.Manifest, key: Key) -> list[str]:
    """Names of the parts that differ; compared as JSON, since a manifest knows no tuples and no
    integer keys.
    """
    now = json.loads(json.dumps({"params": key.params, "inputs": key.inputs, "code": key.code}))
    return [part for part, value in now.items() if getattr(manifest, part) != value]


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
