"""Counts what a dataset has that cannot be used, by reason, and stops the run when it is too much.

A bad row, member or picture raises `Unusable`. `LeftOut.catching` records it and goes on, so that
one run finds all of them. Any other error stops the run at once. `preparation.py` calls `check`
when all pictures are decoded.

Two kinds are counted. *Refused* things should have been used, and a limit holds for their share.
*Mentioned* things are left out by a rule or an option, without a limit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger(__name__)
# Places kept for each reason, and how many of them the manifest holds.
_NAMED, _STORED = 20, 3
# Most characters of a message or a place.
_LONGEST = 1500
# A reason that several readers mention
EMPTY_FILE = "file without a row or member"


class Unusable(ValueError):
    """One row, member or picture cannot be used.

    Args:
        where: its place, which starts the message.
        reason: a few words, equal for all faults of one kind; the tally is by reason.
        problem: what is wrong, what was received, what is allowed, where to change it.
    """

    def __init__(self, where: str, reason: str, problem: str) -> None:
        super().__init__(printable(f"{where}: {problem}"))
        self.where, self.reason = printable(where), reason


@dataclass
class _Tally:
    """What is kept for one reason: the count, the first places, and the first whole message."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    message: str = ""

    def add(self, where: str) -> None:
        self.count += 1
        if len(self.first) < _NAMED:
            self.first.append(where)


class LeftOut:
    """Counts what readers and preparation leave out.

    Args:
        max_share: largest share of all things that may be refused (0..1).
        root: the dataset folder. Facts name places relative to it, since a manifest holds no path
            of a machine. None for a dataset without a folder.
    """

    def __init__(self, max_share: float, root: str | None = None) -> None:
        self.max_share = max_share
        self._root = None if root is None else printable(str(Path(root)))
        self._refused: dict[str, _Tally] = {}
        self._mentioned: dict[str, _Tally] = {}

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Record an `Unusable` that the block raises, and go on after the block."""
        try:
            yield
        except Unusable as error:
            self.refuse(error)

    def refuse(self, error: Unusable) -> None:
        """Count one thing that cannot be used."""
        tally = self._refused.setdefault(error.reason, _Tally())
        tally.add(error.where)
        tally.message = tally.message or str(error)

    def mention(self, reason: str, where: str) -> None:
        """Count something that a rule or an option leaves out, such as a split. It is reported, and
        no limit holds for it.
        """
        self._mentioned.setdefault(reason, _Tally()).add(printable(where))

    def check(self, num_used: int) -> None:
        """Raise ValueError, naming every reason, when more was refused than `max_share` allows.

        Args:
            num_used: how many things of the same kind are used.
        """
        count = sum(tally.count for tally in self._refused.values())
        total = num_used + count
        if count > self.max_share * total:
            raise ValueError(
                f"{count} of {total} cannot be used, allowed is a share of {self.max_share:g}; "
                "repair them, or raise prepare_data.max_left_out in params.yaml to leave them out"
                f"{self._listed()}"
            )
        if count or self._mentioned:
            LOGGER.warning("left out %d of %d%s", count, total, self._listed())

    def facts(self) -> dict[str, Any]:
        """Return {reason: {"count", "first"}} of all that was left out, refused or mentioned."""
        tallies = {**self._refused, **self._mentioned}
        return {
            reason: {"count": tally.count, "first": self._relative(tally.first[:_STORED])}
            for reason, tally in tallies.items()
        }

    def _relative(self, places: list[str]) -> list[str]:
        """Return places with the files in them named from the dataset folder."""
        if self._root is None:
            return places
        # A place may name two files: that of the picture (and, in brackets, that of its row)
        own = re.compile(rf"(^|\(){re.escape(self._root)}(/|: )")
        return [own.sub(r"\1", place) for place in places]

    def _listed(self) -> str:
        lines = []
        for reason, tally in self._refused.items():
            lines.append(f"\n  {tally.count} x {reason}: {tally.message}")
            if tally.count > 1:
                # The message names the file already, so its other rows are listed without it
                file = f"{tally.first[0].partition(': ')[0]}: "
                others = ", ".join(where.removeprefix(file) for where in tally.first[1:])
                lines.append(f"\n    also {others}")
            if tally.count > len(tally.first):
                lines.append(f" and {tally.count - len(tally.first)} more")
        for reason, tally in self._mentioned.items():
            lines.append(f"\n  besides, {tally.count} x {reason}: {', '.join(tally.first[:3])}")
        return "".join(lines)


def printable(text: str) -> str:
    """Return the text with control characters and lone surrogates written as escapes. The middle of
    a long text is left out.

    Texts hold names of files, which may hold anything, and end up in terminals.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
