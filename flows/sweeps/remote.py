"""Flow runs on a work pool: each unit is one, submitted by the parent, found again by its tags.

The plan alone is made by a process of the parent's machine, without a card: a parent that comes
back does not wait for a worker to hear how its cells stand.

A run whose process is gone does not stay Running. Each unit holds a lock while it works (unit.py);
where a run is said to be Running and its lock is free, the parent marks it Crashed. The cell fails
with that reason, and the slot of its worker is its worker's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import filelock

from flows.services import session
from flows.sweeps.local import LocalPool, local_pool
from flows.sweeps.record import Record
from flows.sweeps.unit import ANSWER, HELD, place_of
from flows.sweeps.units import PLAN, Outcome, Unit

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

T = TypeVar("T")
POLL_SECONDS = 1.0
BEGIN_SECONDS = 120.0  # from a worker's taking a run until the run holds its lock
PATIENCE_SECONDS = 300.0  # with a server that does not answer
GONE = "its process is gone"
MAX_REQUEST = 500_000  # bytes that Prefect takes as parameters of a run


class RemotePool:
    """Units as flow runs of the deployment `sweep-unit/<pool>`.

    Args:
        planner: a process of this machine, which makes the plan.
    """

    def __init__(
        self, client: Any, record: Record, pool: str, size: int, planner: LocalPool
    ) -> None:
        self.client, self.record, self.size, self.planner = client, record, size, planner
        self.tag = f"sweep:{record.profile}/{record.name}"
        self.deployment = _asked(lambda: _deployment(client, pool))
        self.units: dict[UUID, str] = {}  # by the id of their runs
        self.found = {
            tag: run for run in self.open() for tag in run.tags if tag.startswith("unit:")
        }

    def open(self) -> list[FlowRun]:
        """Return the runs of this sweep that have not ended."""
        runs = _asked(lambda: self._read(self.tag))
        return [run for run in runs if run.state and not run.state.is_final()]

    def start(self, unit: Unit) -> None:
        """Submit a unit, unless an earlier parent of this sweep did and it is under way."""
        if unit.kind == PLAN:
            self.planner.start(unit)
            return
        tag = f"unit:{unit.id}"
        run = self.found.pop(tag, None)
        if run is None:
            size = len(json.dumps(unit.request))
            if size > MAX_REQUEST:
                raise ValueError(
                    f"the {unit.name} of this sweep takes {size} bytes, and Prefect takes "
                    f"{MAX_REQUEST} as parameters of a run; make several smaller sweeps"
                )
            own = self.record
            words = {
                "profile": own.profile,
                "sweep": own.name,
                "request": unit.request,
                "settings": unit.request["settings"],
            }
            tags = [self.tag, tag, f"kind:{unit.kind}"]
            name = f"{own.name}: {unit.name}"
            run = _asked(
                lambda: self.client.create_flow_run_from_deployment(
                    self.deployment, parameters=words, name=name, tags=tags
                )
            )
        self.units[run.id] = unit.id

    def ended(self) -> list[tuple[str, Outcome]]:
        """Wait a moment, and return the units of runs that have ended."""
        found = self.planner.ended()
        if not self.units:
            return found
        for run in _asked(lambda: self._read(self.tag, list(self.units))):
            outcome = self._outcome(run)
            if outcome is not None:
                found.append((self.units.pop(run.id), outcome))
        return found

    def cancel(self) -> None:
        """Cancel all runs of the sweep that have not ended."""
        from prefect.states import Cancelled, Cancelling

        for run in self.open():
            is_begun = run.state is not None and run.state.is_running()
            state: Any = Cancelling() if is_begun else Cancelled()
            with contextlib.suppress(Exception):  # others are cancelled all the same
                self.client.set_flow_run_state(run.id, state, force=True)

    def _read(self, tag: str, ids: list[UUID] | None = None) -> list[FlowRun]:
        from prefect.client.schemas.filters import (
            FlowRunFilter,
            FlowRunFilterId,
            FlowRunFilterTags,
        )

        of_sweep = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[tag]),
            id=None if ids is None else FlowRunFilterId(any_=ids),
        )
        runs: list[FlowRun] = []
        # A page has at most 200
        while page := self.client.read_flow_runs(
            flow_run_filter=of_sweep, offset=len(runs), limit=200
        ):
            runs += page
        return runs

    def _outcome(self, run: FlowRun) -> Outcome | None:
        """Return how a run ended; None while it has not."""
        assert run.state
        place = place_of(self.record.profile, self.record.name, str(run.id))
        if run.state.is_final():
            answer = place.with_suffix(ANSWER)
            if answer.is_file():
                return Outcome(**json.loads(answer.read_text()))
            told = run.state.message or "it left no answer"
            return Outcome(f"its run {run.name} is {run.state.name}: {told}")
        if _is_gone(run, place):
            return self._crash(run)
        return None

    def _crash(self, run: FlowRun) -> Outcome:
        _asked(lambda: crash(self.client, run.id))
        return Outcome(f"{GONE} (flow run {run.name})")


@contextlib.contextmanager
def remote_pool(record: Record, pool: str, size: int) -> Iterator[RemotePool]:
    """Give the work pool; a block that ends early cancels what it has submitted.

    Raises:
        ValueError: no server is named, or it has no deployment for the pool.
    """
    if session.API_URL not in os.environ:
        raise ValueError(
            f"--pool {pool}: no Prefect server stands here; start one (`make ui`), or name one by "
            f"{session.API_URL}, or leave --pool out, which takes processes of this machine"
        )
    from prefect.client.orchestration import SyncPrefectClient

    with (
        SyncPrefectClient(os.environ[session.API_URL]) as client,
        local_pool(1, record.folder, has_card=False) as planner,
    ):
        made = RemotePool(client, record, pool, size, planner)
        try:
            yield made
        except BaseException:
            made.cancel()
            raise


def crash(client: Any, run_id: UUID) -> None:
    """Let a run whose process is gone say so, unless it has ended."""
    from prefect.states import Crashed

    state = client.read_flow_run(run_id).state
    if state is None or not state.is_final():
        client.set_flow_run_state(run_id, Crashed(message=GONE), force=True)


def crash_former(record: Record) -> None:
    """Let the run of an earlier parent of this sweep say that its process is gone."""
    url = os.environ.get(session.API_URL)
    if record.former is None or url is None or not session.answers(f"{url}/health"):
        return
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.exceptions import ObjectNotFound

    former = UUID(record.former)
    with (
        SyncPrefectClient(url) as client,
        contextlib.suppress(ObjectNotFound),  # another server's
    ):
        _asked(lambda: crash(client, former))


def _deployment(client: Any, pool: str) -> Any:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"sweep-unit/{pool}").id
    except ObjectNotFound as error:
        raise ValueError(
            f"--pool {pool}: the server has no deployment sweep-unit/{pool}; allowed are those of "
            "prefect.yaml, gpu and cpu, once `prefect deploy --all` has made them"
        ) from error


def _asked(ask: Callable[[], T]) -> T:
    """Return what the server answers; one that restarts is waited for."""
    import httpx

    limit = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except httpx.HTTPError as error:
            if time.monotonic() > limit:
                raise ConnectionError(
                    f"the Prefect server does not answer: {error}; `vl-distillery sweep resume` "
                    "goes on with the sweep when it does"
                ) from error
            time.sleep(POLL_SECONDS)


def _is_gone(run: FlowRun, place: Path) -> bool:
    """Whether a worker took a run and no process has its lock any more."""
    assert run.state
    if not (run.state.is_running() or run.state.is_pending() or run.state.is_cancelling()):
        return False
    lock = place.with_suffix(HELD)
    if not lock.exists():
        since = run.state.timestamp or datetime.now(UTC)
        return (datetime.now(UTC) - since).total_seconds() > BEGIN_SECONDS
    try:
        with filelock.FileLock(lock, timeout=0):
            return not place.with_suffix(ANSWER).exists()
    except filelock.Timeout:
        return False
