"""sweep: says how sweeps stand, ends one, or goes on with one. `vl-distillery sweep status | cancel
| resume [NAME]`.

No flow of Prefect. A sweep is found by its name in `data/sweeps/<profile>/`, see
flows/sweeps/record.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.services import session
from flows.sweeps import record
from flows.sweeps.record import RUNNING, Record
from flows.sweeps.remote import crash_former
from tasks.core.foundations.names import hint
from tasks.settings import tree

ACTIONS = ("status", "cancel", "resume")
END_SECONDS = 30.0


def main(action: str, name: str | None, settings: Sequence[str]) -> None:
    """Say, end or resume, and exit: 0 done, 2 a wrong input, 130 interrupted.

    Args:
        action: one of `ACTIONS`.
        name: the sweep; None lists all, for `status` alone.
        settings: overrides of params.yaml, for the profile.
    """
    told = cli.GOES_ON if action == "resume" else cli.BEGINS_AGAIN
    cli.guarded(lambda: _do(action, name, settings or ()), interrupted=told)


def _do(action: str, name: str | None, settings: Sequence[str]) -> None:
    session.begin()
    if action not in ACTIONS:
        raise ValueError(
            f"sweep: received {action!r}{hint(action, ACTIONS)}; allowed: {', '.join(ACTIONS)}"
        )
    profile = tree.overridden(settings)[0]["profile"]
    if name is None:
        if action != "status":
            known = ", ".join(record.names(profile)) or "none"
            raise ValueError(f"sweep {action} needs a name; there are: {known}")
        for one in record.names(profile):
            print(_line(record.read(profile, one)))
        return
    found = record.read(profile, name)
    # A process that was killed could not tell Prefect that its run has ended
    if found.state == RUNNING and not found.is_alive:
        crash_former(replace(found, former=found.run))
    {"status": _show, "cancel": _cancel, "resume": _resume}[action](found)


def _line(found: Record) -> str:
    counts = Counter(row.state for row in found.rows)
    cells = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    return f"{found.name}: {_state(found)}; cells: {cells or 'none yet'}"


def _state(found: Record) -> str:
    if found.state == RUNNING and not found.is_alive:
        return f"its process {found.owner.get('pid')} is gone; `sweep resume` goes on with it"
    return f"running as process {found.owner['pid']}" if found.state == RUNNING else found.state


def _show(found: Record) -> None:
    print(_line(found))
    for row in found.rows:
        recall = f" {row.scores['val']:.1f} % validation recall" if row.scores else ""
        print(f"  {row.state:8} {row.name}{recall}{f': {row.reason}' if row.reason else ''}")


def _cancel(found: Record) -> None:
    """End a sweep as Ctrl-C does: its workers end with it, and what is made stays."""
    if found.state != RUNNING or not found.is_alive:
        print(f"{found.name}: {_state(found)}; nothing to cancel")
        return
    # Checked above by its time of creation too: the id may have gone to another process
    os.kill(found.owner["pid"], signal.SIGINT)
    limit = time.monotonic() + END_SECONDS
    while found.is_alive and time.monotonic() < limit:
        time.sleep(0.1)
    if found.is_alive:
        raise ValueError(
            f"the sweep {found.name} does not end: process {found.owner['pid']} was asked to "
            f"{END_SECONDS:.0f} s ago; kill it, its workers end with it"
        )
    print(f"{found.name}: cancelled; `vl-distillery sweep resume {found.name}` goes on with it")


def _resume(found: Record) -> None:
    cli.run("distill_sweep", found.words)


if __name__ == "__main__":
    cli.main("sweep")
