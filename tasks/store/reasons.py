"""Why an artifact is made again: its manifest against the key of today, in words."""

from __future__ import annotations

import json
from typing import Any

from tasks.store.artifacts import Key, Manifest
from tasks.store.code_digests import modules_of

ABSENT = "it is not there"
FORCED = "forced"
UNDER_WAY = "another run makes it"
SHOWN = 5  # differences that a message names
LONGEST = 60  # characters of a value
_NOTHING = object()


def changed(manifest: Manifest, key: Key) -> str:
    """Return what changed: parameters with both values, inputs, and modules; long lists are cut."""
    now = _as_json(key)
    found = [
        *_changed_values("", manifest.params, now["params"]),
        *(
            f"input {name}"
            for name in sorted({*manifest.inputs, *now["inputs"]})
            if manifest.inputs.get(name) != now["inputs"].get(name)
        ),
        *_changed_code(manifest, key),
    ]
    more = len(found) - SHOWN
    shown = ", ".join(found[:SHOWN]) or "format of the key"
    return f"changed {shown}" + (f" and {more} more" if more > 0 else "")


def changed_parts(manifest: Manifest, key: Key) -> list[str]:
    """Return the names of the parts of a key that differ."""
    return [part for part, value in _as_json(key).items() if getattr(manifest, part) != value]


def _as_json(key: Key) -> dict[str, Any]:
    """A key as a manifest has it, which knows no tuples and no integer keys."""
    found: dict[str, Any] = json.loads(
        json.dumps({"params": key.params, "inputs": key.inputs, "code": key.code})
    )
    return found


def _changed_code(manifest: Manifest, key: Key) -> list[str]:
    if manifest.code == key.code:
        return []
    before, now = manifest.modules, modules_of(key.code)
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    # Older manifests name no modules
    return [f"code of {name}" for name in names] if before and now and names else ["code"]


def _changed_values(place: str, before: Any, now: Any) -> list[str]:
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for name in sorted({*before, *now})
            for line in _changed_values(
                f"{place}.{name}".lstrip("."), before.get(name, _NOTHING), now.get(name, _NOTHING)
            )
        ]
    return [f"{place} {_short(before)} -> {_short(now)}"]


def _short(value: Any) -> str:
    text = "nothing" if value is _NOTHING else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
