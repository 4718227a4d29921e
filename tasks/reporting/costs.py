"""What sets of a preset cost to make: seconds, with and without their experts, and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.reporting.text_tables import Table
from tasks.store import manifests
from tasks.store.artifacts import Ref

GIB = 2**30
COLUMNS = ("set", "cells", "seconds", "with experts", "memory, GiB", "card, GiB")
CAPTION = (
    "What each distilled set cost. Seconds: of distilling, then with the experts that it reads; a "
    "set that was interrupted counts from its last start, one that begins with another from that "
    "one on. Memory: the peak of the process and of "
    "its card; empty where it was not recorded, or without a card."
)


def costs(sets: Mapping[str, Mapping[str, Ref]], experts: Iterable[Ref]) -> Table | None:
    """Return a row for each distilled set, from the manifests; None without one.

    Args:
        sets: by cell and name of the set; cells that share a set share its row.
        experts: all that the cells trained.
    """
    seconds_of = {
        ref.digest: manifests.read(ref.folder, "seconds").facts["seconds"] for ref in experts
    }
    cells: dict[str, list[str]] = {}
    named: dict[str, tuple[str, Ref]] = {}
    for cell, refs in sets.items():
        for name, ref in refs.items():
            cells.setdefault(ref.path, []).append(cell)
            named[ref.path] = name, ref
    rows = []
    for path, (name, ref) in named.items():
        numbers = _row(ref, seconds_of)
        rows.append((name, ", ".join(cells[path]), *numbers))
    return Table(CAPTION, COLUMNS, tuple(rows)) if rows else None


def _row(ref: Ref, seconds_of: Mapping[str, float]) -> tuple[str, str, str, str]:
    manifest = manifests.read(ref.folder, "seconds")
    own = manifest.facts["seconds"]
    read = [name for name in manifest.inputs if name.startswith("expert_")]
    before = sum(seconds_of[manifest.inputs[name]] for name in read)
    memory = manifest.facts.get("peak_bytes"), manifest.facts.get("peak_card_bytes")
    return f"{own:.0f}", f"{own + before:.0f}", _gib(memory[0]), _gib(memory[1])


def _gib(num_bytes: int | None) -> str:
    return f"{num_bytes / GIB:.1f}" if num_bytes else ""
