"""What a sweep hands to a worker, and what it hears back, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

PLAN = "plan"


@dataclass(frozen=True)
class Unit:
    """What one worker makes at once.

    Attributes:
        id: equal ids make the same.
        name: what a person calls it.
        request: what flows/sweeps/work.py is told.
        needs: ids of units that come before it.
    """

    id: str
    name: str
    kind: Literal["plan", "shared", "cell"]
    request: dict[str, Any]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a unit ended.

    Attributes:
        reason: why it failed; None when it did not.
        value: what the work returned.
        is_lost: whether its process ended before it could answer.
        lost: why its first try ended, where that was lost.
    """

    reason: str | None = None
    value: Mapping[str, Any] = field(default_factory=dict)
    is_lost: bool = False
    lost: str | None = None


class Pool(Protocol):
    """Workers that make units."""

    @property
    def size(self) -> int:
        """How many units may be under way."""

    def start(self, unit: Unit) -> None:
        """Give a unit to a worker, now or as soon as one is free."""

    def ended(self) -> list[tuple[str, Outcome]]:
        """Wait a moment for units to end, and return them by id."""
