"""Seconds and peak memory of a piece of work on the CPU or a CUDA card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# glibc's per-thread arenas would make the peak depend on chance. With a fixed threshold a freed
# tensor is no longer resident, so that work which is done before the measured one leaves nothing
# for it to use.
STEADY_MEMORY = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**16),
}


def least_seconds(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Return the least time of each way; they take turns, and the first round warms up.

    On the CPU processor seconds, in which other load on the machine counts little; on a card
    seconds until it is done.
    """
    clock = time.process_time if device.type == "cpu" else _clock_of_card
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = clock()
            way()
            seconds[name].append(clock() - started)
    return {name: min(values) for name, values in seconds.items()}


def card_peak_mib(work: Callable[[], object]) -> float:
    """Return the peak of what torch allocates on the card during the work, over what it held
    before, in MiB.
    """
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def process_peak_mib() -> float:
    """Return the peak of this program's resident set (Linux) in MiB. `ru_maxrss` would start at the
    size of the process that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def forget_process_peak() -> None:
    """Let the peak of the resident set start anew, at what is resident now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def in_fresh_process(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
    """Return what `python -m module arguments` prints, as JSON."""
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    printed = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment}
    ).stdout
    return json.loads(printed)


def _clock_of_card() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
