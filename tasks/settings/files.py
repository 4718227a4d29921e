"""params.yaml and presets.yaml as they stand in the working directory, before anything is checked.

Imports no PyTorch, so that the command line completes names at once. Whatever a file holds, it is
read in bounded time and memory, or refused with its place.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.core.foundations.names import hint
from tasks.settings.values import TYPED, Loader, typed, wrong

PARAMS = Path("params.yaml")
PRESETS = "presets.yaml"
MAX_BYTES = 2**18  # of a file, which is read in seconds
MAX_VALUES = 100_000  # of a file, each alias counted as often as it is used
MAX_DEPTH = 50  # of lists and mappings in each other
MERGE_TAG = "tag:yaml.org,2002:merge"
PLAIN_TAGS = (None, "!", "tag:yaml.org,2002:str")
NUMBERS = (":int", ":float", ":timestamp")
OCTAL = re.compile(r"[-+]?0o[0-7]+")  # of YAML 1.2


def read(path: Path) -> dict[str, Any]:
    """Return the content of a settings file.

    Raises:
        FileNotFoundError: it is not in the working directory.
        ValueError: it is no file, cannot be read, or is no text in UTF-8, no YAML or no mapping; it
            is too large, holds a key twice, or an alias to what holds itself.
    """
    try:
        text = _text(path)
    except PermissionError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); needed is a file that you may read; change "
            "its permissions"
        ) from error
    try:
        # A copy: callers change the tree in place, and `_parsed` gives the same one again
        tree = copy.deepcopy(_parsed(text))
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path} is not valid YAML: {_reason(error, text)}; correct the file there"
        ) from error
    if not isinstance(tree, dict):
        received = "nothing" if tree is None else type(tree).__name__
        raise ValueError(
            f"{path} must hold sections, received {received}; take the repository's own file"
        )
    return tree


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    """Return what a text says; a process that loads many cells parses the same text once."""
    return _Loader(text).get_single_data()


def keys_of(value: Any, allowed: Sequence[str], where: str) -> dict[str, Any]:
    """Return `value`, a mapping that has exactly the allowed keys.

    Raises:
        ValueError: it is no mapping, or has other keys; `where` opens the message.
    """
    if not isinstance(value, dict) or set(value) != set(allowed):
        received = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else repr(value)
        raise ValueError(
            f"{where}: received the keys {received or 'none'}; allowed and needed: "
            f"{', '.join(sorted(allowed)) or 'none'}{_odd(value, allowed)}"
        )
    return value


def _odd(value: Any, allowed: Sequence[str]) -> str:
    """Return which keys are unknown, with the names meant, and which are missing."""
    if not isinstance(value, dict):
        return ""
    missing = [name for name in allowed if name not in value]
    unknown = [f"{key}{hint(key, missing)}" for key in value if key not in allowed]
    parts = {"unknown": unknown, "missing": missing}
    return "".join(f"; {part}: {', '.join(names)}" for part, names in parts.items() if names)


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ValueError(
            f"{path} is no file; allowed is a text file of sections; move it away and put the "
            "repository's own there"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not in {Path.cwd()}; run from the top folder of the repository"
        )
    with path.open("rb") as handle:
        # One byte more than allowed tells that it is too large, and the rest is never read
        data = handle.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES} bytes, which are allowed; shorten it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: received the byte {data[error.start]:#04x}, which is no UTF-8; "
            "save the file as UTF-8"
        ) from error


def _reason(error: Exception, text: str) -> str:
    """Return one line: where in the file, and what is wrong."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: received {chr(error.character)!r}, which is no text"
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    context = getattr(error, "context", None)
    told = [part for part in (context, getattr(error, "problem", None)) if part]
    return place + (", ".join(told) or str(error))


class _Loader(Loader):
    """Reads YAML, but refuses deep nesting, aliases that make an endless value, types by tags, and
    values that DVC reads otherwise.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return a node; refuse one that lies too deep.

        The depth is counted here, since Python's own limit depends on what else is imported.
        """
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark
            problem = f"values are nested too deeply; {MAX_DEPTH} levels are allowed"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        if getattr(self.peek_event(), "tag", None) not in PLAIN_TAGS:
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"received the tag {event.tag!r:.60}; leave it out", event.start_mark
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """Return the tag of a node that has none; `<<` merges, as params.yaml does."""
        tag = super().resolve(kind, value, implicit)
        return MERGE_TAG if tag == TYPED and value == "<<" else tag

    def compose_scalar_node(self, anchor: Any) -> Any:
        """Return a value; refuse one that is a text here, and a number or a date in DVC."""
        node = super().compose_scalar_node(anchor)
        if node.tag == TYPED and isinstance(typed(node.value), str) and _is_number(node.value):
            raise wrong(
                node,
                f"received {node.value!r:.60}, which readers of YAML take for several things; "
                "allowed are decimal numbers such as 1000, 0.5 and 1e-3; quotes make it a text",
            )
        return node

    def get_single_node(self) -> Any:
        """Return the one document, once its size is known."""
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node


def _is_number(text: str) -> bool:
    """Whether YAML 1.1 or 1.2 takes a text without quotes for a number or a date."""
    kinds = yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], [])
    tags = [tag for tag, pattern in kinds if pattern.match(text)]
    return bool(OCTAL.fullmatch(text)) or any(tag.endswith(NUMBERS) for tag in tags)


def _count(node: Any, known: dict[int, int]) -> int:
    """Return how many values a node stands for, all its aliases written out.

    Raises:
        yaml.YAMLError: too many, or a node that holds itself.
    """
    # An alias is the same node again; its values count again, but are walked once
    if id(node) in known:
        if not known[id(node)]:
            raise wrong(node, "the value holds itself through an alias; allowed are other values")
        return known[id(node)]
    known[id(node)] = 0  # being counted
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    found = known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    if found > MAX_VALUES:
        raise wrong(node, f"it stands for more than {MAX_VALUES} values, which are allowed")
    return found
