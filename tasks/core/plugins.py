"""The file name is the registry: finds a plugin module `tasks/core/<kind>/<name>.py` by its
name.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

KINDS = ("datasets", "image_encoders", "text_encoders", "coresets", "distillers")


def available(kind: str) -> list[str]:
    """Return the sorted names of the plugins of one kind (`datasets`, `coresets`, ...)."""
    package = importlib.import_module(f"tasks.core.{kind}")
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
    names = available(kind)
    if name not in names:
        label = kind.removesuffix("s").replace("_", " ")
        raise ValueError(
            f"unknown {label} {name!r}; available: {', '.join(names)}; change it in {where}"
        )
    return importlib.import_module(f"tasks.core.{kind}.{name}")
