"""Names in messages the places that a user set: the merged options of a distillation method come
from `distill.matching` or from the method's own entry, and values of a variant from its cell.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from tasks.settings.variants import Variant

SHARED = "distill.matching"
# distill.options.<method>.<key>, and keys below
_OPTION = re.compile(r"distill\.options\.(\w+)((?:\.\w+)+)")


@contextlib.contextmanager
def as_set(body: dict[str, Any], variant: Variant | None) -> Iterator[None]:
    """Raise messages of this block with the places of values as a user set them.

    Args:
        body: the raw profile.
        variant: changed the profile before.

    Raises:
        ValueError: in place of one that the block raises.
    """
    try:
        yield
    except ValueError as error:
        distill = body["distill"]
        text = _OPTION.sub(lambda found: _place(distill, found[1], found[2][1:]), str(error))
        if text != str(error) and SHARED in text:
            methods = dict.fromkeys(found[1] for found in _OPTION.finditer(str(error)))
            text = f"{text}; {', '.join(methods)} takes it from {SHARED}"
        settings = variant.settings if variant else {}
        keys = [key for key in settings if re.search(rf"\b{re.escape(key)}\b", text)]
        if variant and keys:
            text = f"{text}; {', '.join(keys)} is set {variant.place}"
        if text == str(error):
            raise
        raise ValueError(text) from error


def _place(distill: Any, method: str, key: str) -> str:
    """Return the place of an option that messages name `distill.options.<method>.<key>`."""
    own, matching = _mapping(_mapping(distill, "options"), method), _mapping(distill, "matching")
    part, _, below = key.partition(".options.")
    name = (below or key).partition(".")[0]
    if below and name in _mapping(_mapping(own, part), "options"):
        return f"distill.options.{method}.{key}"
    # A part that names another method takes what it does not say from the options around it
    if name in own:
        return f"distill.options.{method}.{below or key}"
    if name in matching:
        return f"{SHARED}.{below or key}"
    return f"distill.options.{method}.{key}"


def _mapping(value: Any, key: str) -> dict[str, Any]:
    """Return the mapping under a key, {} where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}
