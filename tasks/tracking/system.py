"""What the machine does while a set is made, as MLflow's own monitor sees it: an option.

MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true switches it on, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
says how many seconds lie between two samples (10). Both are MLflow's names. MLflow itself writes
samples into a run that is open. Our runs are told when they are over (spool.py), so samples are
kept until then.

Values are those of processor and memory, by psutil, and of the card that this process works on, by
PyTorch. What MLflow counts of disk, network and other cards is left out. A run has at most 40
metric keys, and a unit of a sweep has one card.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tasks.tracking.records import Row

LOGGER = logging.getLogger("vl_distillery")
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
SECONDS = 10.0  # between two samples
PREFIX = "system/"  # MLflow's page shows these apart
LEFT_OUT = ("system_memory_usage_percentage",)  # its megabytes say the same


@contextlib.contextmanager
def watched() -> Iterator[list[Row]]:
    """Give samples, which grow while the block runs; their step is their number.

    Without the switch there are none, and MLflow is not imported.
    """
    rows: list[Row] = []
    seconds = _interval() if SWITCH in os.environ else None
    if seconds is None:
        yield rows
        return
    is_over = threading.Event()
    watch = threading.Thread(target=_watch, args=(rows, seconds, is_over), daemon=True)
    watch.start()
    try:
        yield rows
    finally:
        is_over.set()
        watch.join()


def _interval() -> float | None:
    """Return the seconds between two samples; None where there shall be none."""
    from mlflow import environment_variables as settings

    try:
        is_on = settings.MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get()
        seconds = settings.MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or SECONDS
    except ValueError as error:  # MLflow ends no run
        LOGGER.warning("no system metrics: %s", error)
        return None
    return seconds if is_on else None


def _watch(rows: list[Row], seconds: float, is_over: threading.Event) -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    monitor = CPUMonitor()
    monitor.collect_metrics()  # the first value of the processor means nothing
    while not is_over.wait(seconds):
        monitor.clear_metrics()
        monitor.collect_metrics()
        values = monitor.aggregate_metrics() | of_card()
        for name in LEFT_OUT:
            values.pop(name, None)
        rows.append((len(rows), {f"{PREFIX}{key}": value for key, value in values.items()}))


def of_card() -> dict[str, float]:
    """Return the memory and the load of the card that PyTorch works on, by the names that MLflow
    gives to a first card.

    Nothing where it works on no card yet. The load needs `nvidia-ml-py`, of the extra `gpu`.
    """
    # While another thread imports PyTorch it has not all of its parts
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    # Asking a card would give this process one where it computes on the CPU
    if not getattr(cuda, "is_initialized", lambda: False)():
        return {}
    free, whole = cuda.mem_get_info()
    values = {"gpu_0_memory_usage_megabytes": (whole - free) / 1e6}
    try:
        values["gpu_0_utilization_percentage"] = float(cuda.utilization())
    except Exception as error:  # errors of the driver's library have no class that we could name
        _tell_once(f"no load of the card: {error}")
    return values


@functools.cache
def _tell_once(message: str) -> None:
    LOGGER.warning(message)
