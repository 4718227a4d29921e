"""What is tried again: what a connection or a file system under load refuses. A wrong value, a full
disk and too little memory would fail again.
"""

from __future__ import annotations

import errno
import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

LOGGER = logging.getLogger("vl_distillery")
RETRY_SECONDS = (5.0, 30.0)
# Errors of networks, and of file systems that lie behind one
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
P = ParamSpec("P")
R = TypeVar("R")


def heals(error: Exception) -> bool:
    """Whether another try may succeed."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in HEALING


def retried(make: Callable[P, R], delays: Sequence[float] = RETRY_SECONDS) -> Callable[P, R]:
    """Return `make` with retries of what heals, after each of `delays` in seconds."""

    @functools.wraps(make)
    def persistent(*args: P.args, **how: P.kwargs) -> R:
        for delay in delays:
            try:
                return make(*args, **how)
            except Exception as error:
                if not heals(error):
                    raise
                LOGGER.warning("another try in %.0f s: %s", delay, error)
            time.sleep(delay)
        # The last try: what it raises ends the run
        return make(*args, **how)

    return persistent
