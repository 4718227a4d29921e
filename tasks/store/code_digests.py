"""The code part of a key: digests of the syntax trees that a stage uses, module by module."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from tasks.store import artifacts

# {code digest: {module: digest}}. A key holds the code digest alone; manifests and messages name
# the modules behind it.
_MODULES: dict[str, dict[str, str]] = {}


def code_digest(modules: Iterable[str]) -> str:
    """Return one digest of all `module_digests`; `modules_of` finds those again by it."""
    found = module_digests(modules)
    digest = artifacts.canonical_digest(found)
    _MODULES[digest] = found
    return digest


def modules_of(digest: str) -> dict[str, str]:
    """Return the digest of each module behind a `code_digest` of this process, {} for another."""
    return _MODULES.get(digest, {})


def module_digests(modules: Iterable[str]) -> dict[str, str]:
    """Return the digest of each module of the static import closure of `modules` inside
    `tasks.core`, and of the modules themselves.

    Comments, docstrings and layout do not count: the digest is over the syntax trees.
    """
    closure: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name not in closure:
            closure.add(name)
            # Only imports of `tasks.core` are followed: what a stage computes lies there
            pending.extend(_imports(name))
    return {name: _tree_digest(name) for name in sorted(closure)}


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
            # A docstring; its text must not change the digest
            body[0] = ast.Pass()
    # `ast.dump` leaves out line numbers, so that layout and comments do not count
    return artifacts.canonical_digest(ast.dump(tree))


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    found = []
    # The whole tree: imports inside functions count too
    for node in ast.walk(_source(module)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from tasks.core.a import b`: b may be a module or a name in a, and both are tried
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if name.startswith("tasks.core.") and _is_module(name))


@functools.cache
def _is_module(name: str) -> bool:
    """Whether it is a module, and no name in one; only packages are imported to find out."""
    # `find_spec` imports what stands before the last dot, which may be a module with PyTorch
    package = importlib.util.find_spec(name.rpartition(".")[0])
    if package is None or package.submodule_search_locations is None:
        return False
    return importlib.util.find_spec(name) is not None
