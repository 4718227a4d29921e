"""Faults that pydantic finds in a section, in words: what came, what is allowed, the name meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import ValidationError

from tasks.core.foundations.names import hint

# pydantic lists choices as text: 'adam' or 'sgd'
_QUOTED = re.compile(r"'([^']*)'")
# What is allowed, by pydantic's types of errors; other types have words of their own
_ALLOWED = (
    ("bool", "allowed are true and false"),
    ("int", "allowed is a whole number"),
    ("float", "allowed is a number"),
    ("string_type", "allowed is a text; quotes make one of a number"),
    ("list_type", "allowed is a list, such as [a, b]"),
    ("tuple_type", "allowed is a list, such as [a, b]"),
    ("dict_type", "allowed is a mapping, such as {key: value}"),
    ("dataclass_type", "allowed is a mapping, such as {key: value}"),
)
# Its types of errors about keys
_MISSING, _UNKNOWN = "missing", ("extra_forbidden", "unexpected_keyword_argument")


def first_fault(error: ValidationError, kind: Any) -> tuple[list[str], str]:
    """Return the place of the first fault below the section, and what is wrong there.

    Args:
        kind: the class of the section.
    """
    errors = error.errors()
    # A mistyped key leaves another one missing: the mistyped one tells more
    if errors[0]["type"] == _MISSING:
        errors = [found for found in errors if found["type"] in _UNKNOWN] or errors
    # A field may have several forms (a name, or a mapping), and each tells its own fault: the form
    # that fits deepest was meant.
    first = max(
        (found for found in errors if found["loc"][:1] == errors[0]["loc"][:1]),
        key=lambda found: len(found["loc"]),
    )
    place = [str(part) for part in first["loc"] if not _is_form(str(part))]
    if first["type"] == "value_error":  # in words of ours, which say what was received
        return place, str(first["ctx"]["error"])
    if first["type"] == _MISSING:
        told = f"received {first['input']!r:.80}, in which {place[-1]!r} is missing"
        return place, f"{told}; give it a value"
    if first["type"] in _UNKNOWN:
        known = _keys(kind, place[:-1])
        allowed = f"; allowed: {', '.join(known)}" if known else ""
        told = f"received {first['input']!r:.200}: unknown key {place[-1]!r}"
        return place, f"{told}{hint(place[-1], known)}{allowed}"
    meant = hint(first["input"], _QUOTED.findall(str(first.get("ctx", {}).get("expected", ""))))
    return place, f"received {first['input']!r:.200}{meant}: {_allowed(first)}"


def _allowed(fault: Any) -> str:
    """Return what is allowed at the place of a fault, in words."""
    known = (told for kind, told in _ALLOWED if fault["type"].startswith(kind))
    return next(known, str(fault["msg"]))


def _is_form(part: str) -> bool:
    """Whether a part of pydantic's place is one form of a field that has several, and no name."""
    return part in ("bool", "float", "int", "str") or "[" in part


def _keys(kind: Any, place: Iterable[str]) -> list[str]:
    """Return the keys of the section at a place below a class; none where a mapping takes any."""
    for name in place:
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
        forms = [hints.get(name), *get_args(hints.get(name))]
        kind = next((form for form in forms if is_dataclass(form)), None)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []
