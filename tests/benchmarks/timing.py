"""Wall-clock comparison of two or more ways to compute the same thing, on a machine that may be
busy with other work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def alternate(
    ways: Mapping[str, Callable[[int], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Call every way once a round, in turn, so that other load hits all of them alike.

    Args:
        ways: name -> function of the round number, 0 .. rounds - 1.

    Returns:
        (median seconds, results of all rounds), both by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, list[Any]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            results[name].append(way(number))
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}, results


def print_ratios(seconds: Mapping[str, float], baseline: str, target: float) -> None:
    """Print the median seconds of each way and how many times faster than `baseline` it is."""
    for name, value in seconds.items():
        ratio = (
            "" if name == baseline else f"  {seconds[baseline] / value:6.1f}x (target {target:g}x)"
        )
        print(f"{name:<28} {value:9.3f} s{ratio}")
