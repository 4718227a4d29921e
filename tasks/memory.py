"""The memory that a piece of work takes at its peak, apart from what earlier work left behind."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import ctypes
import functools
import gc
import platform
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

# The system counts the peak in bytes on macOS, in units of 1,024 bytes elsewhere
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

# The innermost block of `watch` that runs
_AROUND: contextvars.ContextVar[Peak | None] = contextvars.ContextVar("around", default=None)


@dataclass
class Peak:
    """The highest values while a block of `watch` ran; they are whole when it has ended.

    Attributes:
        left_bytes: what earlier work had left resident when the block began, beyond an idle
            process; it is no memory of the block.
        host_bytes: resident memory of an idle process and of the block.
        card_bytes: allocated on the first card, 0 without one.
    """

    left_bytes: int
    host_bytes: int = 0
    card_bytes: int = 0

    def note(self) -> None:
        """Raise the values to the peaks that the system has counted since it last began anew."""
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        self.host_bytes = max(self.host_bytes, resident - self.left_bytes)
        if torch.cuda.is_available():
            self.card_bytes = max(self.card_bytes, torch.cuda.max_memory_allocated())


@functools.cache
def idle_bytes() -> int:
    """Return what was resident at the first call, which comes once the libraries of the stages are
    imported and before any work.
    """
    gc.freeze()  # a collection need not look at the objects of libraries
    # Triton would report objects that are still frozen at exit as leaked
    atexit.register(gc.unfreeze)
    return _resident_bytes()


@contextlib.contextmanager
def watch() -> Iterator[Peak]:
    """Measure the peaks of a block.

    The peak is the memory of an idle process and what the block adds: what earlier work left behind
    is taken off. Memory that a process allocates once (buffers of thread pools and kernels) counts
    for the first block. Only Linux can begin a peak anew; elsewhere it is that of the process so
    far.
    """
    # Garbage of earlier work would count for this block
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back to the system
    around = _AROUND.get()
    if around is not None:
        around.note()  # the system is about to forget it
    peak = Peak(_resident_bytes() - idle_bytes())
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    token = _AROUND.set(peak)
    try:
        yield peak
    finally:
        _AROUND.reset(token)
    peak.note()


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
