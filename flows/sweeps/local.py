"""Worker processes on this machine: each makes one unit after the other.

A process that ends, however it does, loses the unit that it was making; another takes its place.
When the parent is gone, they end (worker.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.services import session
from flows.sweeps.units import Outcome, Unit

WAIT_SECONDS = 1.0
CARDS, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


class Process:
    """One worker process; it starts with its first unit."""

    def __init__(self, number: int, log: Path, env: dict[str, str]) -> None:
        self.number, self.log, self.env = number, log, env
        self.unit: Unit | None = None
        self.child: subprocess.Popen[str] | None = None

    def give(self, unit: Unit) -> subprocess.Popen[str]:
        """Let it make a unit; it is free."""
        self.unit = unit
        child = self.child or self._start()
        assert child.stdin
        # A process that ended since its last unit is seen where its answer is read
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(unit.request) + "\n")
            child.stdin.flush()
        return child

    def hear(self) -> Outcome:
        """Return how its unit ended; it has answered, or it is gone."""
        assert self.child and self.child.stdout
        if line := self.child.stdout.readline():
            return Outcome(**json.loads(line))
        code = self.child.wait()
        self.end()
        how = f"with code {code}"
        if code < 0:
            how = f"by signal {-code} ({signal.Signals(-code).name})"
        told = f"its process ended {how}; the last it wrote is in {self.log}"
        return Outcome(told, is_lost=True)

    def end(self) -> None:
        """End the process with all that it started."""
        if self.child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            self.child.communicate()
        self.child = None

    def _start(self) -> subprocess.Popen[str]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "flows.sweeps.worker"],
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the parent alone
            )
        return self.child


class LocalPool:
    """Processes on this machine that make units."""

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes
        self.selector = selectors.DefaultSelector()

    @property
    def size(self) -> int:
        return len(self.processes)

    def start(self, unit: Unit) -> None:
        process = next(process for process in self.processes if process.unit is None)
        child = process.give(unit)
        assert child.stdout
        self.selector.register(child.stdout, selectors.EVENT_READ, process)

    def ended(self) -> list[tuple[str, Outcome]]:
        found = []
        for key, _ in self.selector.select(WAIT_SECONDS):
            process: Process = key.data
            assert process.unit
            self.selector.unregister(key.fileobj)
            unit, process.unit = process.unit, None
            # Unset first: a process that is gone is replaced with the next unit
            found.append((unit.id, process.hear()))
        return found


@contextlib.contextmanager
def local_pool(number: int, folder: Path, *, has_card: bool = True) -> Iterator[LocalPool]:
    """Give `number` processes, which end with the block; their logs lie in `folder`.

    Args:
        has_card: whether each of them has a card where this machine has some.

    Raises:
        ValueError: more processes than this machine has cards.
    """
    cards = visible_cards()
    if cards and number > len(cards):
        raise ValueError(
            f"--workers: received {number}, and this machine shows {len(cards)} cards "
            f"({', '.join(cards)}); allowed is one worker a card; lower --workers or change {CARDS}"
        )
    processes = [
        Process(
            place,
            folder / f"worker_{place}.log",
            _environment(number, cards[place] if cards and has_card else ""),
        )
        for place in range(number)
    ]
    try:
        yield LocalPool(processes)
    finally:
        for process in processes:
            process.end()


def visible_cards() -> list[str]:
    """Return the cards that this process may use, by what CUDA_VISIBLE_DEVICES calls them."""
    if CARDS in os.environ:
        return [card for card in os.environ[CARDS].split(",") if card not in ("", "-1")]
    found = [re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*")]
    return sorted((match[1] for match in found if match), key=int)


def _environment(number: int, card: str) -> dict[str, str]:
    """Return what a worker finds: its card, its share of threads, and no server of Prefect."""
    kept = (session.API_URL, session.WORKER_RUN)
    env = {name: value for name, value in os.environ.items() if name not in kept}
    env[CARDS] = card
    if THREADS not in env:
        env[THREADS] = str(max(1, len(os.sched_getaffinity(0)) // number))
    return env
