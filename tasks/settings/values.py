"""Reads one value as it is typed: for params.yaml, presets.yaml and `--set` alike.

A value without quotes is a number, true, false, null, or else a text with every sign that it has.
PyYAML alone reads 0100 as 64, 1:30 as 90, `off` as false and 1e-3 as a text. DVC, which reads the
same files, and people do not.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# Not yes, no, on and off: they stay texts
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
# Python reads at most 4,300 digits
INTEGER = re.compile(r"[-+]?[0-9]{1,1000}")
FLOAT = re.compile(
    r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan"
)
TYPED = "tag:vl-distillery,2026:typed"
MERGE = "<<"


def typed(text: str) -> Any:
    """Return the value that a text without quotes stands for; see above."""
    word = text.strip()
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    if INTEGER.fullmatch(word):
        return int(word)
    if FLOAT.fullmatch(word):
        return float(word.replace(".inf", "inf").replace(".nan", "nan"))
    return text


class Loader(yaml.SafeLoader):
    """YAML whose values without quotes are read by `typed`: no dates, no other forms of numbers."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """Return the tag of a node that has none: `TYPED` for a value without quotes."""
        if kind is yaml.ScalarNode and implicit[0] and value != MERGE:
            return TYPED
        tag: str = super().resolve(kind, value, implicit)
        return tag


Loader.add_constructor(TYPED, lambda loader, node: typed(node.value))
