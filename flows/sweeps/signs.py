"""What a unit on a work pool tells its parent through Prefect's server: that it lives, and its
answer. Both are labels of its flow run, so that workers need no folder of the parent.

A run whose process is gone with its worker would be Running for ever. Its beat stands still then,
and the parent sees that by its own clock (`Watch`).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.sweeps.asking import asked
from flows.sweeps.units import Outcome

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

BEAT, ANSWER = "vl_distillery.beat", "vl_distillery.answer"
BEAT_SECONDS = 5.0
SILENT_SECONDS = 45.0  # a client of Prefect waits up to 38 s before its next try
BEGIN_SECONDS = 120.0  # from a worker's taking a run until its first beat


@contextlib.contextmanager
def beating(run_id: UUID) -> Iterator[None]:
    """Say again and again in this block that the run lives."""
    has_ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(run_id, has_ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()  # two requests at once could lose a label


def _beat(run_id: UUID, has_ended: threading.Event) -> None:
    import httpx
    from prefect.client.orchestration import get_client

    number = 0
    with get_client(sync_client=True) as client:
        while not has_ended.wait(BEAT_SECONDS if number else 0):
            number += 1
            # The parent waits for the next one
            with contextlib.suppress(httpx.HTTPError):
                client.update_flow_run_labels(run_id, {BEAT: number})


def tell(run_id: UUID, answer: dict[str, Any]) -> None:
    """Leave the answer of a run, as soon as the server takes it."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        asked(lambda: client.update_flow_run_labels(run_id, {ANSWER: json.dumps(answer)}))


def told(run: FlowRun) -> Outcome | None:
    """Return the answer of a run; None where it has left none."""
    answer = run.labels.get(ANSWER)
    return None if answer is None else Outcome(**json.loads(str(answer)))


class Watch:
    """For how long runs have shown no sign of life."""

    def __init__(self) -> None:
        self.seen: dict[UUID, tuple[object, float]] = {}

    def is_silent(self, run: FlowRun) -> bool:
        """Whether a worker took the run, and its process is gone since."""
        assert run.state
        sign = run.state.type, run.labels.get(BEAT)
        now = time.monotonic()
        before, since = self.seen.get(run.id, (None, now))
        if sign != before or run.state.is_scheduled():
            self.seen[run.id] = sign, now
            return False
        return now - since > (SILENT_SECONDS if BEAT in run.labels else BEGIN_SECONDS)

    def begin_again(self) -> None:
        """Forget what was seen: the server was away, and nobody could tell it anything."""
        self.seen.clear()
