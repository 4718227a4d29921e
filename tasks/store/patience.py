"""Work on a store that may be slow, refuse or hang: a few tries, and an end.

A library may wait for ever. So the work runs in a thread of its own, which is left behind when it
neither moves a byte nor ends.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
Report = Callable[[int, int], None]
SECONDS = 30.0  # without a byte or an answer
PAUSES = (0.5, 2.0)  # seconds before another try
POLL_SECONDS = 0.2


class Unreachable(Exception):
    """A store did not do what it was asked for; the error behind it is the cause."""


class _Abandoned(Exception):
    """Nobody waits for this work any more."""


@dataclass
class Pulse:
    """How far a transfer is; it tells a slow store from one that hangs.

    Attributes:
        done, total: bytes.
        last: when something moved.
    """

    done: int = 0
    total: int = 0
    last: float = field(default_factory=time.monotonic)
    is_over: bool = False

    def beat(self, num_bytes: int = 0) -> None:
        """Say that something moved; work that was left behind ends here."""
        if self.is_over:
            raise _Abandoned
        self.done += num_bytes
        self.last = time.monotonic()


def patiently(
    work: Callable[[Pulse], T],
    *,
    answers: tuple[type[Exception], ...],
    report: Report | None = None,
    seconds: float = SECONDS,
    pauses: Sequence[float] = PAUSES,
) -> T:
    """Return what `work` returns, tried again after each of `pauses`.

    Args:
        answers: errors that another try would not change; they are raised as they are.
        report: told of bytes that moved and bytes in all.
        seconds: without anything that moves, all tries together.

    Raises:
        Unreachable: the last try failed, or nothing moved for too long.
    """
    # A hang is not tried again: the thread that hangs still uses the connection
    final: tuple[type[Exception], ...] = (*answers, Unreachable)
    pulse = Pulse()
    try:
        for pause in (*pauses, None):
            try:
                return _attended(work, pulse, report, seconds)
            except final:
                raise
            except Exception as error:
                if pause is None:
                    raise Unreachable from error
                time.sleep(pause)
                # The next try counts its bytes from the start
                pulse.done = pulse.total = 0
        raise AssertionError("the last try returns or raises")
    finally:
        # A thread that was left behind ends at its next beat, and moves nothing more
        pulse.is_over = True


def _attended(work: Callable[[Pulse], T], pulse: Pulse, report: Report | None, seconds: float) -> T:
    """Run `work` in a thread and wait for it as long as something moves."""
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

    def body() -> None:
        try:
            outcome.set_result(work(pulse))
        except BaseException as error:
            outcome.set_exception(error)

    # A daemon, so that a thread that hangs does not keep the process alive
    threading.Thread(target=body, daemon=True).start()
    is_told = False
    while True:
        concurrent.futures.wait([outcome], POLL_SECONDS)
        # What ends at once is not worth a line
        if report and pulse.total and (is_told or not outcome.done()):
            report(pulse.done, pulse.total)
            is_told = True
        if outcome.done():
            return outcome.result()
        if time.monotonic() - pulse.last > seconds:
            raise Unreachable from TimeoutError(f"nothing came or went for {seconds:g} s")
