"""Finds a plugin module `tasks/core/<room>/<kind>/<name>.py` by its name.

The file name is the registry: a new plugin is a new file in the folder of its kind.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from tasks.core.foundations.names import hint

# The room of each kind of plugin. Plugins live beside the code that calls them.
ROOMS = {
    "datasets": "data",
    "image_encoders": "networks",
    "text_encoders": "networks",
    "coresets": "selection",
    "distillers": "distillation",
}


def module_name(kind: str, name: str) -> str:
    """Return the dotted name of the plugin's module."""
    return f"{_package(kind)}.{name}"


def available(kind: str) -> list[str]:
    """Return the sorted names of the plugins of one kind (`datasets`, `coresets`, ...)."""
    package = importlib.import_module(_package(kind))
    return sorted(
        info.name
        for info in pkgutil.iter_modules(package.__path__)
        if not info.name.startswith("_")
    )


def load(kind: str, name: str, *, where: str = "params.yaml") -> ModuleType:
    """Import the plugin `name` of `kind`.

    Raises:
        ValueError: no such file; the message lists the names that exist and `where` to change the
            name.
    """
    # Looked up before the import, so that an ImportError inside a plugin does not look like a
    # missing plugin
    names = available(kind)
    if name not in names:
        label = kind.removesuffix("s").replace("_", " ")
        raise ValueError(
            f"unknown {label} {name!r}{hint(name, names)}; available: {', '.join(names)}; "
            f"change it in {where}"
        )
    return importlib.import_module(module_name(kind, name))


def _package(kind: str) -> str:
    return f"tasks.core.{ROOMS[kind]}.{kind}"
