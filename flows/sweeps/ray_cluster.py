"""Tasks on a cluster of Ray: each unit but the plan is one. See infra/adr/0010.

Each node has the parent's folder at the same place: one that all mount, or a checkout of its own
and a store that artifacts travel through.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.services import session
from flows.sweeps.local import CARDS, WAIT_SECONDS, LocalPool, local_pool
from flows.sweeps.record import Record
from flows.sweeps.units import PLAN, Outcome, Unit
from flows.sweeps.worker import answer_to

RAY, ADDRESS = "ray", "RAY_ADDRESS"
TRIES, PAUSE_SECONDS = 3, 2


class RayPool:
    """Units as tasks of Ray.

    Args:
        ray: the module, connected.
        make: `_make` as a remote function.
        planner: a process of this machine, which makes the plan.
    """

    def __init__(self, ray: Any, make: Any, size: int, planner: LocalPool) -> None:
        self.ray, self.make, self.size, self.planner = ray, make, size, planner
        self.folder = str(Path.cwd())
        self.units: dict[Any, str] = {}  # by what Ray gives for their answers

    def start(self, unit: Unit) -> None:
        if unit.kind == PLAN:
            self.planner.start(unit)
            return
        named = self.make.options(name=unit.name)
        self.units[named.remote(json.dumps(unit.request), self.folder)] = unit.id

    def ended(self) -> list[tuple[str, Outcome]]:
        if not self.units:
            return self.planner.ended()
        try:
            ready, _ = self.ray.wait(list(self.units), timeout=WAIT_SECONDS)
            return [(self.units.pop(answer), self._outcome(answer)) for answer in ready]
        except ConnectionError as error:
            raise ConnectionError(
                f"the Ray cluster does not answer: {error}; `vl-distillery sweep resume` goes on "
                "with the sweep when it does"
            ) from error

    def _outcome(self, answer: Any) -> Outcome:
        try:
            return Outcome(**json.loads(self.ray.get(answer)))
        except self.ray.exceptions.RayError as error:
            told = f"Ray did not make it, {type(error).__name__}: {_told(error)}"
            # Else a node or a process died
            is_lost = not isinstance(error, self.ray.exceptions.RayTaskError)
            return Outcome(told, is_lost=is_lost)


@contextlib.contextmanager
def ray_pool(record: Record, size: int, num_gpus: float | None) -> Iterator[RayPool]:
    """Give the cluster that RAY_ADDRESS names; its tasks end with the block.

    Args:
        size: units that are made at once.
        num_gpus: the share of a card that a unit takes; None takes one where there are cards.

    Raises:
        ValueError, ConnectionError: Ray is not installed, no cluster is named or answers, or no
            node has what a unit takes.
    """
    address = _address()
    import ray

    found = {"PYTHONPATH": str(Path.cwd())}  # by the nodes, and by what Ray starts for us
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the error below says the same
        try:
            connected(
                lambda: ray.init(
                    address,
                    runtime_env={"env_vars": found},
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            )
        except (ConnectionError, RuntimeError) as error:
            raise _unreachable(address, _told(error)) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = _share(nodes, num_gpus)
        own = {} if share else {CARDS: ""}  # Ray hides no card from who takes none
        define = ray.remote(
            num_gpus=share,
            max_retries=0,  # the loop of the sweep tries again what was lost
            runtime_env={"env_vars": own},
            scheduling_strategy="SPREAD",
        )
        with local_pool(1, record.folder, has_card=False) as planner:
            yield RayPool(ray, define(_make), size, planner)
    finally:
        ray.shutdown()


def connected(connect: Callable[[], object]) -> None:
    """Connect, and try again where the head could not start its process for us.

    A busy head loses such a process now and then; the next one starts.

    Raises:
        ConnectionAbortedError: what the head said to the last of `TRIES`.
    """
    for _ in range(TRIES - 1):
        with contextlib.suppress(ConnectionAbortedError):
            connect()
            return
        time.sleep(PAUSE_SECONDS)
    connect()


def _address() -> str:
    """Return the address of the cluster, where somebody listens."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            "--pool ray: the package ray is not installed; install the extra `ray` (`pip install "
            "-c constraints.txt -e '.[ray]'`), or choose another --pool"
        )
    address = os.environ.get(ADDRESS, "")
    place = urllib.parse.urlsplit(address)
    try:
        is_whole = place.scheme == RAY and place.hostname and place.port
    except ValueError:  # a port that is no number
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"--pool ray: received {address!r} in {ADDRESS}; allowed is {RAY}://HOST:PORT, the "
            "client port of the cluster's head, 10001 where `ray start --head` names no other"
        )
    if session.is_refused(place):
        raise _unreachable(address, "connection refused")
    return address


def _unreachable(address: str, reason: str) -> ConnectionError:
    return ConnectionError(
        f"--pool ray: no Ray cluster of this version answers at {address}, which {ADDRESS} names: "
        f"{reason}; start one (infra/README.md), or change {ADDRESS}"
    )


def _told(error: Exception) -> str:
    """Return an error of Ray in one line: it may have the traceback of another machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ;")]
    return " ... ".join(dict.fromkeys((*lines[:1], *lines[-1:])))


def _share(nodes: Sequence[dict[str, float]], num_gpus: float | None) -> float:
    """Return the share of a card that each unit takes.

    Raises:
        ValueError: no node has it, with the CPU that a unit takes as well.
    """
    share = num_gpus
    if share is None:
        share = float(any(node.get("GPU", 0.0) >= 1.0 for node in nodes))
    if not any(node.get("CPU", 0.0) >= 1.0 and node.get("GPU", 0.0) >= share for node in nodes):
        kinds = sorted({(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes})
        shown = ", ".join(f"{cpus:g} and {cards:g}" for cpus, cards in kinds)
        raise ValueError(
            f"--num-gpus: a unit takes 1 CPU and {share:g} of a card, and no node of the Ray "
            f"cluster has both; CPUs and cards of its nodes: {shown}; lower --num-gpus, or start a "
            "node that has them"
        )
    return share


def _make(request: str, folder: str) -> str:
    """Do on a node what a request asks for, and return the answer; both are JSON."""
    session.switch_offline()
    os.chdir(folder)
    return json.dumps(answer_to(json.loads(request)))
