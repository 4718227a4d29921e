"""`--set section.key=value`: one override of the raw tree of params.yaml and presets.yaml, in
place.
"""

from __future__ import annotations

from typing import Any

import yaml

TOP = ("profile", "methods", "presets", "profiles")


def override(tree: dict[str, Any], setting: str) -> None:
    """Apply one `section.key=value`, relative to the chosen profile, or from the top (`TOP`).

    A method's options may be given any key of `distill.matching`, which they then overlay. Keys of
    per-budget mappings are numbers (`lr_img.100=50.0`).

    Raises:
        ValueError: no `=`, or a key that params.yaml does not have.
    """
    path, found, text = setting.partition("=")
    if not found or not path:
        raise ValueError(f"--set takes section.key=value, received {setting!r}")
    assign(tree, path, yaml.safe_load(text), f"--set {setting!r}")


def assign(tree: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Put `value` at `section.key`, see `override`; `where` opens the message about a key that is
    not there.
    """
    parts = path.split(".")
    if parts[0] not in TOP:
        parts = ["profiles", str(tree.get("profile")), *parts]
    node: Any = tree
    for depth, part in enumerate(parts):
        keys = _keys(tree, parts, depth, node)
        if part not in keys:
            known = ", ".join(keys) if isinstance(node, dict) else "nothing below a value"
            raise ValueError(
                f"{where}: unknown key {part!r} in {'.'.join(parts[:depth]) or 'the top'}; "
                f"allowed: {known}"
            )
        if depth == len(parts) - 1:
            node[keys[part]] = value
        else:
            node = node[keys[part]]


def _keys(tree: dict[str, Any], parts: list[str], depth: int, node: Any) -> dict[str, Any]:
    """What may follow in `node`: text of the key -> key."""
    if not isinstance(node, dict):
        return {}
    keys = {str(key): key for key in node}
    if (
        depth == 5
        and len(parts) == 6
        and parts[0] == "profiles"
        and parts[2:4] == ["distill", "options"]
    ):
        shared = tree["profiles"][parts[1]]["distill"].get("matching", {})
        return {**{str(key): key for key in shared}, **keys}
    return keys
