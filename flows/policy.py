"""How tasks are run: what is tried again, and the slot that computing on a card needs.

The concurrency limit `gpu` counts cards: each running task tagged `gpu` holds a slot. It exists
where a server is shared by several processes (workers, `make ui`). Taking a slot costs about a
second. So the tag is left out on a private server, where nobody shares, and for what is made
already. See infra/adr/0002.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from prefect import Task, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.task_runners import ThreadPoolTaskRunner

from flows.services import session
from tasks.store import caching
from tasks.store.artifacts import Ref

GPU = "gpu"
RETRY_SECONDS = [5.0, 30.0]
# Mapped tasks share one process's cores or card
ONE_AT_A_TIME: Any = ThreadPoolTaskRunner(max_workers=1)
HEALING = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EBUSY,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
    }
)


def heals(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether another try may succeed: the network or a file system under load, not a wrong value,
    not a full disk.
    """
    error = state.result(raise_on_failure=False)
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in HEALING


def retried(task: Task[..., Any]) -> Any:
    """Return `task` with retries of what can heal."""
    return task.with_options(
        retries=len(RETRY_SECONDS), retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=heals
    )


class OnGpu:
    """A task of ours with retries, holding a slot of the limit `gpu` while it computes.

    It holds none on a private server, nor where its artifact is there already: that is looked up
    first, and the task then has nothing to compute.
    """

    def __init__(self, task: Task[..., Ref]) -> None:
        self._task = task
        self._free = retried(task)
        # `with_options(tags=[])` would keep those of `task`: an empty list counts as none given
        self._free.tags = set()
        self._held = self._free
        if not session.is_private():
            ensure_gpu_limit()
            self._held = retried(task).with_options(tags=[GPU])

    def __call__(self, *args: Any, **how: bool) -> Ref:
        """Run the task, and return its artifact."""
        found: Ref = self.chosen(*args, **how)(*args, **how)
        return found

    def map(self, shared: Sequence[Any], items: Sequence[Any], **how: bool) -> list[Ref]:
        """Run the task once for each item, its last positional argument, and return the artifacts
        in the order of the items.
        """
        chosen = [self.chosen(*shared, item, **how) for item in items]
        futures: dict[int, Any] = {}
        for task in dict.fromkeys((self._free, self._held)):
            places = [place for place, one in enumerate(chosen) if one is task]
            given = [items[place] for place in places]
            if given:
                same = {name: unmapped(value) for name, value in how.items()}
                futures.update(
                    zip(places, task.map(*map(unmapped, shared), given, **same), strict=True)
                )
        return [futures[place].result() for place in range(len(items))]

    def chosen(self, *args: Any, **how: bool) -> Any:
        """Return the form of the task that suits these arguments, with or without the tag."""
        if self._held is self._free:
            return self._free
        try:
            with caching.looking():
                self._task.fn(*args, **how)
        except (caching.NotMade, OSError):
            return self._held
        return self._free


def ensure_gpu_limit(slots: int = 1) -> None:
    """Create the limit when it is not there; a number somebody chose (`prefect gcl update tag:gpu
    --limit 4`) stays.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(f"tag:{GPU}")
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(name=f"tag:{GPU}", limit=slots)
                )
            except ObjectAlreadyExists:
                return  # another worker was faster
