"""Checkpoints of the outer loop: a state, its guard, and what a roll-back would return to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.core.distillation.outer_guard import Guard
from tasks.core.distillation.outer_state import Snapshot
from tasks.core.foundations.checkpoints import load_checkpoint, save_checkpoint

_GOOD = "good/"  # before the names of the tensors of `Guard.good`


def write(file: Path | None, guard: Guard) -> None:
    """Write a checkpoint; None writes nothing."""
    if file is not None:
        save_checkpoint(file, *dump(guard))


def resume(file: Path | None, guard: Guard) -> None:
    """Bring a guard and its state to where a checkpoint left them; without one they stay as they
    are.
    """
    stored = load_checkpoint(file) if file else None
    if stored is None:
        return
    tensors, facts = stored
    now, good = {}, {}
    for name, value in tensors.items():
        if name.startswith(_GOOD):
            good[name.removeprefix(_GOOD)] = value
        else:
            now[name] = value
    guard.state.history = list(facts["history"])
    guard.state.return_to(_snapshot(now, facts))
    guard.is_healed = facts["is_healed"]
    if facts["good"] is not None:
        guard.good = _snapshot(good, facts["good"])


def dump(guard: Guard) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON facts of a checkpoint."""
    now = guard.state.snapshot()
    tensors, facts = dict(now.tensors), {**_facts(now, guard), "good": None}
    facts["history"] = list(guard.state.history)
    if guard.good is not None:
        facts["good"] = _facts(guard.good, guard)
        for name, value in guard.good.tensors.items():
            tensors[_GOOD + name] = value
    return tensors, facts


def _facts(snapshot: Snapshot, guard: Guard) -> dict[str, Any]:
    return {
        "iteration": snapshot.iteration,
        "rates": snapshot.rates,
        "is_healed": guard.is_healed,
    }


def _snapshot(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Snapshot:
    return Snapshot(tensors, facts["iteration"], facts["rates"])
