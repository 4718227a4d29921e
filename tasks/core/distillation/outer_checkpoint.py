"""Stores the outer loop in checkpoints: its state, and what a roll-back would return to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.distillation.outer_guard import Guard
from tasks.core.distillation.outer_state import Snapshot
from tasks.core.foundations.checkpoints import Parts, load_checkpoint, save_checkpoint


def write(file: Path | None, guard: Guard) -> None:
    """Write a checkpoint; None writes nothing."""
    if file is not None:
        save_checkpoint(file, *dump(guard))


def resume(file: Path | None, guard: Guard) -> None:
    """Bring a guard and its state to where a checkpoint left them. Without one they stay as they
    are.
    """
    stored = load_checkpoint(file) if file else None
    if stored is None:
        return
    parts, facts = stored
    found = {name: Snapshot(tensors, **facts[name]) for name, tensors in parts.items()}
    # The history first: going back to a snapshot cuts the rows behind it
    guard.state.history = facts["history"]
    guard.state.return_to(found["now"])
    guard.is_healed, guard.good = facts["is_healed"], found.get("good")


def dump(guard: Guard) -> tuple[Parts, dict[str, Any]]:
    """Return the tensors and the JSON facts of a checkpoint: the state as it is `now`, and the last
    `good` one.
    """
    parts: Parts = {}
    facts: dict[str, Any] = {"history": guard.state.history, "is_healed": guard.is_healed}
    for name, snapshot in (("now", guard.state.snapshot()), ("good", guard.good)):
        if snapshot is not None:
            parts[name] = snapshot.tensors
            facts[name] = {"iteration": snapshot.iteration, "rates": snapshot.rates}
    return parts, facts
