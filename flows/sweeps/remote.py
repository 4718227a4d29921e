"""Flow runs on a work pool: each unit is one, submitted by the parent, found again by its tags.

The plan alone is made by a process of the parent's machine, without a card: a parent that comes
back does not wait for a worker to hear how its cells stand.

A run whose process is gone does not stay Running: the parent marks it Crashed when it shows no sign
of life (signs.py). The slot of its worker is its worker's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from flows.services import session
from flows.sweeps import signs
from flows.sweeps.asking import asked
from flows.sweeps.local import LocalPool, local_pool
from flows.sweeps.record import Record
from flows.sweeps.units import PLAN, Outcome, Unit

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

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
        self.deployment = asked(lambda: _deployment(client, pool))
        self.units: dict[UUID, str] = {}  # by the id of their runs
        self.watch = signs.Watch()
        self.found = self._under_way()

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
            words = {
                "parameters": {"request": unit.request, "settings": unit.request["settings"]},
                "name": f"{self.record.name}: {unit.name}",
                "tags": [self.tag, tag, f"kind:{unit.kind}"],
                # A server that ends before it answers is asked again, and makes no second run
                "idempotency_key": str(uuid4()),
            }
            run = asked(
                lambda: self.client.create_flow_run_from_deployment(self.deployment, **words)
            )
        self.units[run.id] = unit.id

    def ended(self) -> list[tuple[str, Outcome]]:
        """Wait a moment, and return the units of runs that have ended."""
        found = self.planner.ended()
        if not self.units:
            return found
        since = time.monotonic()
        runs = asked(lambda: self._read(list(self.units)))
        if time.monotonic() - since > signs.BEAT_SECONDS:
            self.watch.begin_again()
        for deleted in set(self.units).difference(run.id for run in runs):
            found.append((self.units.pop(deleted), Outcome("its run was deleted in Prefect")))
        for run in runs:
            outcome = self._outcome(run)
            if outcome is not None:
                found.append((self.units.pop(run.id), outcome))
        return found

    def cancel(self) -> None:
        """Cancel all runs of the sweep that have not ended."""
        import httpx
        from prefect.states import Cancelled, Cancelling

        with contextlib.suppress(httpx.TransportError):  # the server is gone
            for run in self._read():
                is_begun = run.state is not None and run.state.is_running()
                state: Any = Cancelling() if is_begun else Cancelled()
                with contextlib.suppress(Exception):  # others are cancelled all the same
                    self.client.set_flow_run_state(run.id, state, force=True)

    def _under_way(self) -> dict[str, FlowRun]:
        """Return the runs of an earlier parent that go on, by the tags of their units."""
        found: dict[str, FlowRun] = {}
        for run in asked(self._read):
            if run.state and not run.state.is_cancelling():
                found |= {tag: run for tag in run.tags if tag.startswith("unit:")}
        return found

    def _read(self, ids: list[UUID] | None = None) -> list[FlowRun]:
        """Return the runs of these ids, or all of the sweep that have not ended."""
        from prefect.client.schemas import filters
        from prefect.client.schemas.objects import TERMINAL_STATES
        from prefect.client.schemas.sorting import FlowRunSort

        if ids is None:
            is_open = filters.FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))
            wanted = filters.FlowRunFilter(
                tags=filters.FlowRunFilterTags(all_=[self.tag]),
                state=filters.FlowRunFilterState(type=is_open),
            )
        else:
            wanted = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=ids))
        runs: list[FlowRun] = []
        # A page has at most 200
        while page := self.client.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, offset=len(runs), limit=200
        ):
            runs += page
        return runs

    def _outcome(self, run: FlowRun) -> Outcome | None:
        """Return how a run ended; None while it has not."""
        assert run.state
        answer = signs.told(run)
        if not run.state.is_final():
            return self._silent(run, answer) if self.watch.is_silent(run) else None
        if answer:
            return answer
        told = f"{run.state.name}: {run.state.message or 'it left no answer'}"
        return Outcome(f"its run {run.name} is {told}", is_lost=run.state.is_crashed())

    def _silent(self, run: FlowRun, answer: Outcome | None) -> Outcome:
        """Let a run whose process is gone say how it ended, and return that."""
        from prefect.states import Cancelled, Completed, Crashed, Failed

        assert run.state
        found = answer or Outcome(
            f"{GONE} (flow run {run.name})", is_lost=not run.state.is_cancelling()
        )
        state: Any = Completed()
        if found.is_lost:
            state = Crashed(message=GONE)
        elif answer is None:
            state = Cancelled(message=GONE)
        elif answer.reason is not None:
            state = Failed(message=answer.reason)
        asked(lambda: conclude(self.client, run.id, state))
        return found


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
    from prefect.client.orchestration import get_client

    with (
        get_client(sync_client=True) as client,
        local_pool(1, record.folder, has_card=False) as planner,
    ):
        made = RemotePool(client, record, pool, size, planner)
        try:
            yield made
        except BaseException:
            made.cancel()
            raise


def conclude(client: Any, run_id: UUID, state: Any) -> None:
    """Let a run whose process is gone say how it ended, unless it has said so."""
    known = client.read_flow_run(run_id).state
    if known is None or not known.is_final():
        client.set_flow_run_state(run_id, state, force=True)


def crash_former(record: Record) -> None:
    """Let the run of an earlier parent of this sweep say that its process is gone."""
    url = os.environ.get(session.API_URL)
    if record.former is None or url is None or not session.answers(f"{url}/health"):
        return
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    former = UUID(record.former)
    with (
        get_client(sync_client=True) as client,
        contextlib.suppress(ObjectNotFound),  # another server's
    ):
        asked(lambda: conclude(client, former, Crashed(message=GONE)))


def _deployment(client: Any, pool: str) -> Any:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"sweep-unit/{pool}").id
    except ObjectNotFound as error:
        raise ValueError(
            f"--pool {pool}: the server has no deployment sweep-unit/{pool}; allowed are those of "
            "prefect.yaml, gpu and cpu, once `prefect deploy --all` has made them"
        ) from error
