"""Hands units to a pool as what they need is made; a unit that fails fails alone, with what needs
it. A unit whose process was lost is tried once more: what it had done is found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from flows.sweeps.units import Outcome, Pool, Unit

LOGGER = logging.getLogger("vl_distillery")
Heard = Callable[[Unit, Outcome], Iterable[Unit]]


def run(units: Iterable[Unit], pool: Pool, heard: Heard) -> None:
    """Run units, the first ones first, until none is left.

    Args:
        heard: is told each unit that ended, and returns further ones. Units that need what failed
            end with that reason and never start.
    """
    waiting: list[Unit] = list(units)
    under_way: dict[str, Unit] = {}
    ended: dict[str, Outcome] = {}
    lost: dict[str, str | None] = {}
    while waiting or under_way:
        for unit in [unit for unit in waiting if set(unit.needs) <= set(ended)]:
            if reason := _missing(unit, ended):
                waiting.remove(unit)
                ended[unit.id] = Outcome(reason)
                waiting += heard(unit, ended[unit.id])
            elif len(under_way) < pool.size:
                waiting.remove(unit)
                under_way[unit.id] = unit
                pool.start(unit)
        if not under_way:
            continue
        for key, outcome in pool.ended():
            unit = under_way.pop(key)
            if outcome.is_lost and key not in lost:
                LOGGER.warning("%s is tried once more: %s", unit.name, outcome.reason)
                lost[key] = outcome.reason
                waiting.insert(0, unit)
                continue
            ended[key] = replace(outcome, lost=lost.get(key))
            waiting += heard(unit, ended[key])


def _missing(unit: Unit, ended: dict[str, Outcome]) -> str | None:
    """Return why a unit cannot be made."""
    for need in unit.needs:
        if ended[need].reason is not None:
            return f"it needs {need}, which failed: {ended[need].reason}"
    return None
