"""sweep-unit: one unit of a sweep as a flow run of its own, on a worker of a pool.

Its answer lies beside the sweep's record. Meanwhile it holds a lock there: the system frees a lock
when its process ends, however it does, so that the parent sees a run without a process (remote.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock

from flows.runner import flow
from flows.services import session
from flows.sweeps.record import SWEEPS
from tasks.core.foundations.durable import write_text

UNITS, HELD, ANSWER = "units", ".lock", ".json"


@flow("sweep-unit")
def sweep_unit(
    profile: str, sweep: str, request: dict[str, Any], settings: Sequence[str] = ()
) -> None:
    """Do what a sweep asks for.

    Args:
        profile, sweep: names of the sweep that asks.
        settings: those of the request; they may name the store that artifacts travel through.
        request: what is to be made, see flows/sweeps/work.py.

    Raises:
        ValueError: the unit failed; the reason is in its answer too.
    """
    place = place_of(profile, sweep, os.environ[session.WORKER_RUN])
    place.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(place.with_suffix(HELD)):
        from flows.sweeps.worker import answer_to

        answer = answer_to(request)
        write_text(place.with_suffix(ANSWER), json.dumps(answer))
    if "reason" in answer:
        raise ValueError(answer["reason"])


def place_of(profile: str, sweep: str, run_id: str) -> Path:
    """Return where a flow run has its lock and its answer, without their endings."""
    return SWEEPS / profile / sweep / UNITS / run_id
