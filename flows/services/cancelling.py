"""A run that a worker of Prefect started ends when it is cancelled, whatever its worker hears.

Prefect tells the worker through an open connection. When the server has been away for some
seconds, the worker gives up listening ("flow run cancellation will fail"). The run would then
stay Cancelling, and its process would go on. So the process reads the state of its run by itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from flows.services import session

P = ParamSpec("P")
R = TypeVar("R")
READ_SECONDS = 5.0
NUM_READINGS = 2  # the first leaves the end to the worker, whose order is better


def ends_with_run(fn: Callable[P, R]) -> Callable[P, R]:
    """Make the function of a flow one that is interrupted when its run is cancelled or deleted.

    Only the run that a worker has started is followed, and not those below it.
    """

    @functools.wraps(fn)
    def followed(*args: P.args, **how: P.kwargs) -> Any:
        from prefect import runtime
        from prefect.states import Cancelled

        own: str | None = runtime.flow_run.id
        if own is None or own != os.environ.get(session.WORKER_RUN):
            return fn(*args, **how)
        is_over, has_ended = threading.Event(), threading.Event()
        threading.Thread(target=_follow, args=(UUID(own), is_over, has_ended), daemon=True).start()
        try:
            return fn(*args, **how)
        except KeyboardInterrupt:
            if not is_over.is_set():
                raise
            # Prefect takes a state for that of the run, and an interrupt for a crash
            return Cancelled(message="its process ended by itself")
        finally:
            has_ended.set()

    return followed


def _follow(run_id: UUID, is_over: threading.Event, has_ended: threading.Event) -> None:
    """Interrupt this process when somebody else ends its run."""
    import httpx
    from prefect.client.orchestration import get_client

    num_readings = 0
    with get_client(sync_client=True) as client:
        while num_readings < NUM_READINGS:
            if has_ended.wait(READ_SECONDS):
                return
            # A server that does not answer has ended nothing
            with contextlib.suppress(httpx.HTTPError):
                num_readings = num_readings + 1 if _is_ended(client, run_id) else 0
    is_over.set()
    session.interrupt()


def _is_ended(client: Any, run_id: UUID) -> bool:
    """Whether a run is being cancelled, has ended, or is deleted."""
    from prefect.exceptions import ObjectNotFound

    try:
        state = client.read_flow_run(run_id).state
    except ObjectNotFound:
        return True
    return state is not None and (state.is_cancelling() or state.is_final())
