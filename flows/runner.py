"""Flows and steps: recorded by Prefect where a server stands, plain functions elsewhere.

PREFECT_API_URL names the server; the command line sets it to that of `make ui`. Without one Prefect
is not even imported, which takes 2 s a process. Retries are the same in both ways.
See infra/adr/0001.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, ParamSpec, TypeVar

from flows.policy import retried
from flows.services import session
from flows.services.cancelling import ends_with_run
from tasks.progress import reporter
from tasks.settings.stores import check_store, store_of
from tasks.step import Step
from tasks.store import travel
from tasks.store.remote import Remote
from tasks.tracking.records import Invocation

LOGGER = logging.getLogger("vl_distillery")
SERVER = "PREFECT_API_URL"
STORE = "VL_DISTILLERY_STORE"
P = ParamSpec("P")
R = TypeVar("R")
_COMMAND: contextvars.ContextVar[str] = contextvars.ContextVar("command")


@dataclass(frozen=True)
class Flow(Generic[P, R]):
    """A function that calls steps and other flows.

    Attributes:
        fn: the function itself; called by another flow, its steps are recorded as that flow's own.
        name: in Prefect.
        run_name: what Prefect calls a run; None lets it choose.
    """

    fn: Callable[P, R]
    name: str
    run_name: str | None = None

    def __call__(self, *args: P.args, **how: P.kwargs) -> R:
        if SERVER not in os.environ:
            return self.fn(*args, **how)
        found: R = self.recorded()(*args, **how)
        return found

    def with_options(self, *, flow_run_name: str) -> Flow[P, R]:
        """Return the flow with another name of its run."""
        return replace(self, run_name=flow_run_name)

    def recorded(self) -> Any:
        """Return the flow of Prefect that records this one."""
        from prefect import flow

        # Results are artifacts; Prefect keeps none of them
        define = flow(name=self.name, flow_run_name=self.run_name, persist_result=False)
        return define(self.fn)


def flow(name: str) -> Callable[[Callable[P, R]], Any]:
    """Make a function a flow: a `Flow`, or Prefect's own class where Prefect is here already.

    A worker and `prefect deploy` load flows from their files, and take that class alone.
    """

    def define(fn: Callable[P, R]) -> Any:
        @functools.wraps(fn)
        def named(*args: P.args, **how: P.kwargs) -> R:
            # Inside another flow, which has opened the store already
            if _COMMAND.get(None):
                return fn(*args, **how)
            told = signature.bind(*args, **how).arguments
            remote = _remote(told.get("settings") or ())
            token = _COMMAND.set(name)  # the outermost flow's
            try:
                with travel.through(remote, reporter):
                    return fn(*args, **how)
            finally:
                _COMMAND.reset(token)

        # Prefect reads types where a function is defined, and this one is defined here
        signature = inspect.signature(fn, eval_str=True)
        named.__signature__ = signature  # type: ignore[attr-defined]
        # A plain process, in which Prefect is imported only when a server stands
        made = Flow(named, name)
        if "prefect" not in sys.modules:
            return made
        session.end_with_worker()
        return replace(made, fn=ends_with_run(named)).recorded()

    return define


def _remote(settings: Sequence[str]) -> Remote | None:
    """Return the store that the environment names, else the one of the settings.

    Raises:
        ValueError: it is no address of a store; the message has nothing secret.
    """
    if STORE in os.environ:
        url = os.environ[STORE] or None
        check_store(url, STORE, may_have_user=True)
    else:
        url = store_of(settings)
    return Remote(url) if url else None


@functools.cache
def _say_unrecorded() -> None:
    """Say once, at the first step, that no server stands; a wrong command has failed before."""
    if not {SERVER, "DVC_STAGE"}.intersection(os.environ):
        LOGGER.info("not recorded in Prefect, since no server stands; `make ui` starts one")


def run(step: Step[..., R], *args: Any, **how: Any) -> R:
    """Run a step with retries; inside a recorded flow it is a task of Prefect."""
    make = retried(step.fn)
    context = sys.modules.get("prefect.context")
    if context is None or context.FlowRunContext.get() is None:
        _say_unrecorded()
        return make(*args, **how)
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    # Our own keys decide what is made: Prefect's cache sees neither changed modules nor lost files
    define = task(
        name=step.fn.__name__,
        task_run_name=step.run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return define(make)(*args, **how)


def invocation() -> Invocation:
    """Return what MLflow calls this run: all stages of one `dvc repro` are one."""
    command = "dvc repro" if "DVC_STAGE" in os.environ else _COMMAND.get()
    return Invocation(session.invocation(), command)
