"""Reads one value as it is typed: for params.yaml, presets.yaml and `--set` alike.

A value without quotes is a number, true, false, null, or else a text with every sign that it has.
PyYAML alone reads 0100 as 64, 1:30 as 90, `off` as false and 1e-3 as a text. DVC, which reads the
same files, and people do not. What DVC reads otherwise is refused in files (files.py).
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


def typed(text: str) -> Any:
    """Return the value that a text without quotes stands for; see above."""
    word = text.strip(" \t\n")
    plain = word.lower()
    if plain in WORDS and word in (plain, plain.capitalize(), plain.upper()):
        return WORDS[plain]
    if INTEGER.fullmatch(word):
        return int(word)
    if FLOAT.fullmatch(word):
        return float(word.replace(".inf", "inf").replace(".nan", "nan"))
    return text


class Loader(yaml.SafeLoader):
    """YAML whose values without quotes are read by `typed`: no dates, no other forms of numbers."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """Return the tag of a node that has none: `TYPED` for a value without quotes."""
        is_plain = kind is yaml.ScalarNode and implicit[0]
        tag: str = TYPED if is_plain else super().resolve(kind, value, implicit)
        return tag

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return a mapping; refuse one that has a key twice, of which YAML keeps the last."""
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                value = typed(key.value) if key.tag == TYPED else key.value
                # Two spellings of a number are one key, and in JSON so are 20 and "20"
                names = {value, str(value)}
                if names & seen:
                    raise wrong(key, f"the key {key.value!r} is there twice; leave one out")
                seen |= names
        return node


def wrong(node: Any, problem: str) -> yaml.YAMLError:
    """Return the error of a node, with its place."""
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


Loader.add_constructor(TYPED, lambda loader, node: typed(node.value))
