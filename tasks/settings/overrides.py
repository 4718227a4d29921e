"""`--set section.key=value`: one override of the raw tree of params.yaml and presets.yaml, in
place.

A value is taken as typed (values.py): a number, true, false, null, or else text with every sign.
Lists, mappings and text in quotes are read as YAML without anchors, aliases, tags and comments.
"""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

from tasks.core.foundations.names import hint
from tasks.settings.values import Loader, typed

TOP = ("profile", "store", "methods", "sweep", "presets", "profiles")
RECIPES = ("small", "full")  # of `evaluate`
QUOTED = ("[", "{", "'", '"')


def override(tree: dict[str, Any], setting: str) -> None:
    """Apply one `section.key=value`, relative to the chosen profile, or from the top (`TOP`).

    A method's options may be given any key of `distill.matching`, which they then overlay. A
    further student may be given any key of both recipes of `evaluate`. Keys of per-budget mappings
    are numbers (`lr_img.100=50.0`).

    Raises:
        ValueError: no `=`, a value that cannot be read, or a key that params.yaml does not have.
    """
    path, found, text = setting.partition("=")
    if not found or not path:
        raise ValueError(f"--set takes section.key=value, received {setting!r}")
    where = f"--set {setting!r}"
    # A profile may be called 007 or null, so that its name is never read as a value
    assign(tree, path, text if path == "profile" else value_of(text, where), where)


def value_of(text: str, where: str) -> Any:
    """Return the value that `text` stands for; see above.

    Raises:
        ValueError: a list, mapping or quoted text that is not closed, is followed by more, or holds
            signs with a meaning of their own in YAML.
    """
    if not text.lstrip().startswith(QUOTED):
        return typed(text)
    text = text.strip()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        # YAML stops at the end of the first value and would drop what follows
        if node.end_mark.index < len(text):
            raise yaml.YAMLError(f"nothing may follow, received {text[node.end_mark.index :]!r}")
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        why = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ValueError(
            f"{where}: the value cannot be read ({why}); allowed are text, numbers, "
            "[lists, of, them] and {mappings: of them}; put quotes around text inside that holds "
            "signs such as * & ! @ # [ ] { } : or a tab"
        ) from error


def text_of(value: Any) -> str:
    """Return the text that `value_of` reads as `value`; equal values have one text, whatever the
    order of their keys.
    """
    if isinstance(value, dict):
        # By their text: numbers and words cannot be sorted together
        named = {str(key): (key, item) for key, item in value.items()}
        parts = [f"{_key(key)}: {text_of(item)}" for _, (key, item) in sorted(named.items())]
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(text_of, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}".replace("inf", ".inf").replace("nan", ".nan")
    # YAML reads no pairs of surrogates, by which JSON writes what lies beyond 16 bits
    return json.dumps(value, ensure_ascii=False)


def word_of(value: Any) -> str:
    """Return the text that a person reads: `text_of`, but no quotes around a plain text."""
    return value if isinstance(value, str) else text_of(value)


def _key(key: Any) -> str:
    """Return a key of a mapping; keys by size are numbers, and stay numbers."""
    return json.dumps(str(key)) if not isinstance(key, int) else str(key)


class _Loader(Loader):
    """YAML without anchors, aliases and tags: a few of them can make a value without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return a node; refuse one with a name or a tag."""
        event = self.peek_event()
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.YAMLError("* & and ! have a meaning of their own in YAML")
        return super().compose_node(parent, index)


def assign(tree: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Put `value` at `section.key`, in place, see `override`.

    Raises:
        ValueError: there is no such key; `where` opens the message.
    """
    parts = str(path).split(".")
    if parts[0] not in TOP:
        parts = ["profiles", str(tree.get("profile")), *parts]
    node: Any = tree
    for depth, part in enumerate(parts):
        keys = _keys(tree, parts, depth, node)
        if part not in keys:
            known = ", ".join(keys) if isinstance(node, dict) else "nothing below a value"
            raise ValueError(
                f"{where}: unknown key {part!r}{hint(part, keys)} in "
                f"{'.'.join(parts[:depth]) or 'the top'}; allowed: {known}"
            )
        if depth == len(parts) - 1:
            node[keys[part]] = value
        else:
            # A recipe that a further student does not name yet begins empty; a value holds no keys
            unnamed: Any = {} if part in RECIPES else None
            node = node.setdefault(keys[part], unnamed)


def _keys(tree: dict[str, Any], parts: list[str], depth: int, node: Any) -> dict[str, Any]:
    """Return the keys that may follow in `node`: {text of the key: key}."""
    # Nothing can be set below a value, and the message says so
    if not isinstance(node, dict):
        return {}
    keys = {str(key): key for key in node}
    # A method's options need not name a shared key before an override sets it:
    # profiles.<profile>.distill.options.<method>.<key>
    if (
        depth == 5
        and len(parts) == 6
        and parts[0] == "profiles"
        and parts[2:4] == ["distill", "options"]
    ):
        shared = tree["profiles"][parts[1]]["distill"].get("matching", {})
        return {**{str(key): key for key in shared}, **keys}
    return {**_recipe_keys(tree, parts, depth), **keys}


def _recipe_keys(tree: dict[str, Any], parts: list[str], depth: int) -> dict[str, Any]:
    """Return the keys that a further student need not name before an override sets them:
    profiles.<profile>.evaluate.cross_architecture.<student>.<recipe>.<key>.
    """
    if parts[0] != "profiles" or parts[2:4] != ["evaluate", "cross_architecture"]:
        return {}
    if depth == 5:
        return {name: name for name in RECIPES}
    recipe = None
    if depth == 6 and parts[5] in RECIPES:
        recipe = tree["profiles"][parts[1]]["evaluate"].get(parts[5])
    return {name: name for name in recipe} if isinstance(recipe, dict) else {}
