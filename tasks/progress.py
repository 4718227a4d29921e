"""Progress of long work: a bar in a terminal, a line every 30 s elsewhere, and a progress artifact
in Prefect's UI when a task run surrounds us.

Core functions take `progress(done, total)` or `log(values, step)` and know nothing of these.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from typing import Any

LOGGER = logging.getLogger("vl_distillery")
BAR_SECONDS = 0.2
LINE_SECONDS = 30.0
ARTIFACT_SECONDS = 5.0


def reporter(name: str, *, every: float = LINE_SECONDS) -> Reporter:
    """Return `progress(done, total, **values)` for one piece of work; calls may be frequent, what
    they show is rate-limited.

    Lines end with the last call, of `total`, or with the reporter itself.

    Args:
        name: the stage and what it makes, for example `distill bi_trajectory-20`.
        every: seconds between two lines off a terminal.
    """
    return Reporter(name, every)


class Reporter:
    """Shows how far one piece of work is, see `reporter`.

    Work that ends within `ARTIFACT_SECONDS` makes no call to the Prefect API.
    """

    def __init__(self, name: str, every: float) -> None:
        self.name = name
        self.bar: Any = None
        self.artifact: Any = None
        self.is_artifact_wanted = True
        self.last_bar = 0.0
        self.started = self.last_artifact = time.monotonic()
        self.first: tuple[int, float] | None = None
        self.state = "begun"
        self.over = threading.Event()
        if not sys.stderr.isatty():
            # A thread: a single call of core may take longer than the time between two lines.
            weakref.finalize(self, self.over.set)
            work = (weakref.ref(self), self.over, every)
            threading.Thread(target=_write_lines, args=work, daemon=True).start()

    def __call__(self, done: int, total: int, **values: float) -> None:
        """Note how far the work is.

        Args:
            values: what is measured meanwhile, for example `loss`.
        """
        now = time.monotonic()
        is_end = done >= total
        self.state = self._describe(done, total, values, now)
        if is_end:
            self.over.set()
        if sys.stderr.isatty() and (is_end or now - self.last_bar >= BAR_SECONDS):
            self.last_bar = now
            self._draw(done, total, is_end)
        if self.is_artifact_wanted and (
            now - self.last_artifact >= ARTIFACT_SECONDS or (is_end and self.artifact)
        ):
            self.last_artifact = now
            self._publish(100.0 * done / max(total, 1))

    def _describe(self, done: int, total: int, values: dict[str, float], now: float) -> str:
        if self.first is None:
            # Resumed work begins in the middle: its first call is no measure of speed.
            self.first = (0, self.started) if done <= 1 else (done, now)
        begin, at = self.first
        parts = [f"{done} of {total}", *(f"{key} {value:.4g}" for key, value in values.items())]
        if done > begin:
            parts.append(f"{_duration((now - at) / (done - begin) * (total - done))} left")
        return ", ".join(parts)

    def _draw(self, done: int, total: int, is_end: bool) -> None:
        from tqdm import tqdm

        if self.bar is None:
            self.bar = tqdm(total=total, desc=self.name, leave=False, dynamic_ncols=True)
        self.bar.n, self.bar.total = done, total
        self.bar.refresh()
        if is_end:
            self.bar.close()
            self.bar = None

    def _publish(self, percent: float) -> None:
        """Create or update the artifact; a server that does not answer must not end the work, so
        the failure is logged once.
        """
        # Not imported here: a plain run does without Prefect
        context = sys.modules.get("prefect.context")
        if context is None or context.TaskRunContext.get() is None:
            self.is_artifact_wanted = False
            return
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        try:
            if self.artifact is None:
                self.artifact = create_progress_artifact(progress=percent, description=self.name)
            else:
                update_progress_artifact(self.artifact, progress=percent)
        except Exception as error:
            LOGGER.warning("no more progress of %s in Prefect: %s", self.name, error)
            self.is_artifact_wanted = False


def _write_lines(work: weakref.ref[Reporter], over: threading.Event, every: float) -> None:
    """Log where the work is until it is over, or nobody holds its reporter any more."""
    while not over.wait(every):
        report = work()
        if report is not None:
            LOGGER.info("%s: %s", report.name, report.state)
        # Held here, the reporter would live as long as this thread
        del report


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
