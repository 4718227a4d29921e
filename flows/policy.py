"""How tasks are run: what is tried again, and the slot that computing on a card needs.

The concurrency limit `gpu` counts cards: each running task tagged `gpu` holds a slot. It exists where a server is shared by
several processes (workers, `make ui`). On a private server there is nobody to share with, and taking a slot costs about a
second, so the tag is left out there. See infra/adr/0002.
"""

from __future__ import annotations

import errno
from typing import Any

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.task_runners import ThreadPoolTaskRunner

from flows import session

GPU = "gpu"
RETRY_SECONDS = [5.0, 30.0]
ONE_AT_A_TIME: Any = ThreadPoolTaskRunner(max_workers=1)  # mapped tasks share one process's cores or card
HEALING = frozenset({errno.EIO, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.ENETUNREACH, errno.EHOSTUNREACH})


def heals(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether another try may succeed: the network or a file system under load, not a wrong value, not a full disk."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in HEALING


def retried(task: Task[..., Any]) -> Any:
    """Return `task` with retries of what can heal."""
    return task.with_options(retries=len(RETRY_SECONDS), retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=heals)


def on_gpu(task: Task[..., Any]) -> Any:
    """Return `task` with retries, holding a slot of the limit `gpu` where the server is shared."""
    if session.is_private():
        free = retried(task)
        free.tags = set()  # `with_options(tags=[])` would keep those of `task`: an empty list counts as none given
        return free
    ensure_gpu_limit()
    return retried(task).with_options(tags=[GPU])


def ensure_gpu_limit(slots: int = 1) -> None:
    """Create the limit when it is not there; a number somebody chose (`prefect gcl update tag:gpu --limit 4`) stays."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(f"tag:{GPU}")
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=f"tag:{GPU}", limit=slots))
            except ObjectAlreadyExists:
                return  # another worker was faster
