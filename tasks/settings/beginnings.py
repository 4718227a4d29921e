"""The finished set that a distilled one begins with, by `begin_with` of its method: a smaller one
of the method, or an imported one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tasks.settings.sets import SetName


def beginning(config: Any, name: SetName) -> SetName | None:
    """Return what a set begins with, the largest that fits; None for initial pairs.

    Args:
        config: options of its method.
    """
    assert name.num_pairs
    own = [SetName(name.method, size) for size in _own_sizes(config) if size < name.num_pairs]
    others = [SetName.parse(entry) for entry in _imported(config)]
    # Of one size the method's own comes first: it begins with the imported one itself
    fitting = [*own, *(one for one in others if (one.num_pairs or 0) <= name.num_pairs)]
    return max(fitting, key=lambda one: one.num_pairs or 0, default=None)


def sizes(config: Any, budgets: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of all sets that a method makes: the budgets, and what they begin with."""
    own = [size for size in _own_sizes(config) if size < max(budgets)]
    return tuple(sorted({*budgets, *own}))


def check_beginnings(
    config: Any, imported: Collection[SetName], budgets: Sequence[int], where: str
) -> None:
    """Raise ValueError for an imported set that the parameters do not name, or that is too large.

    Args:
        imported: those of `methods.imported`.
        where: place of the options in params.yaml, for the message.
    """
    known = {str(name): name for name in imported}
    for entry in _imported(config):
        if entry not in known:
            raise ValueError(
                f"{where}.begin_with: received {entry!r}; allowed are numbers of pairs, and sets "
                f"of methods.imported: {', '.join(known) or 'none'}; change one of both"
            )
        if (known[entry].num_pairs or 0) > min(budgets):
            raise ValueError(
                f"{where}.begin_with: received {entry!r} with a set of {min(budgets)} pairs, which "
                "it is too large for; allowed are sets of at most that; change `budgets`, or "
                "begin_with"
            )


def _own_sizes(config: Any) -> list[int]:
    return [entry for entry in _entries(config) if isinstance(entry, int)]


def _imported(config: Any) -> list[str]:
    return [entry for entry in _entries(config) if isinstance(entry, str)]


def _entries(config: Any) -> Sequence[int | str]:
    """A method that does not go on from sets has no such option."""
    found: Sequence[int | str] = getattr(config, "begin_with", ())
    return found
