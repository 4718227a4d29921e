"""Checks names that a user gives and that become folders, and finds the name meant by a typo."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


def check_name(name: object, what: str, where: str) -> None:
    """Refuse a name that cannot name a folder, such as one that leads out of `data/`.

    Args:
        what: the kind of thing that has the name, for the message.
        where: where a user changes it.

    Raises:
        ValueError: the name is longer than 100 characters, begins with a dot, or has another
            character.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"{where}: received the {what} {name!r}; allowed are at most 100 letters, digits, "
            "`_`, `-` and `.`, the first no `.`, since it names a folder; change it there, and put "
            "a name that looks like a number in quotes"
        )


def hint(name: object, known: Iterable[str]) -> str:
    """Return ` (did you mean 'toy'?)` for a name that is near a known one, else ""."""
    near = get_close_matches(str(name), list(map(str, known)), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
