"""Progress of long work: a bar in the terminal, and a progress artifact in Prefect's UI when a task
run surrounds us.

Core functions take `progress(done, total)` and know nothing of either.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

LOGGER = logging.getLogger("vl_distillery")
BAR_SECONDS = 0.2
ARTIFACT_SECONDS = 5.0


def reporter(name: str) -> Callable[[int, int], None]:
    """Return `progress(done, total)` for one piece of work; calls may be frequent, what they show
    is rate-limited.

    Args:
        name: what is being done, for example `expert 3` or `distill bi_trajectory-20`.
    """
    return _Reporter(name)


class _Reporter:
    """Work that ends within `ARTIFACT_SECONDS` pays for no call to the Prefect API."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: Any = None
        self.artifact: Any = None
        self.is_artifact_wanted = True
        self.last_bar = 0.0
        self.last_artifact = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        is_end = done >= total
        if sys.stderr.isatty() and (is_end or now - self.last_bar >= BAR_SECONDS):
            self.last_bar = now
            self._draw(done, total, is_end)
        if self.is_artifact_wanted and (
            now - self.last_artifact >= ARTIFACT_SECONDS or (is_end and self.artifact)
        ):
            self.last_artifact = now
            self._publish(100.0 * done / max(total, 1))

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
        context = sys.modules.get("prefect.context")  # a plain run does without Prefect
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
