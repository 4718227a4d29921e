"""params.yaml joined with presets.yaml and changed by `--set`, before anything is validated.

Imports no PyTorch, so that a program which only hands settings on stays light.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.settings import variants
from tasks.settings.files import PARAMS, PRESETS, read
from tasks.settings.overrides import override

SHARED = "shared"
VARIANT = "variant"
PROFILE = "profile"


def overridden(overrides: Sequence[str], path: Path = PARAMS) -> tuple[dict[str, Any], str | None]:
    """Return the raw tree changed by overrides, and the variant that one of them names.

    Raises:
        ValueError: an override that params.yaml does not take.
        FileNotFoundError: see `read_tree`.
    """
    tree, variant = read_tree(path), None
    # The profile first, wherever it stands: the other settings are for the profile that is run
    for setting in sorted(overrides, key=lambda one: one.partition("=")[0] != PROFILE):
        key, _, value = setting.partition("=")
        # The caller applies the variant after all overrides, wherever it stands among them
        if key == VARIANT:
            if not value:
                raise ValueError(
                    f"--set takes {VARIANT}=preset/cell, received {setting!r}; `vl-distillery "
                    "preset --list` names them"
                )
            variant = value
        else:
            override(tree, setting)
    return tree, variant


def read_tree(path: Path = PARAMS) -> dict[str, Any]:
    """Return the raw tree of params.yaml without its shared blocks, which YAML has merged into the
    profiles, joined with presets.yaml beside it.
    """
    tree = read(path)
    tree.pop(SHARED, None)
    held = path.with_name(PRESETS)
    return variants.join(tree, read(held), str(held))
