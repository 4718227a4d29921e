"""Frozen encoders in small batches, as stages run them on the CPU, against larger ones.

Run: python -m tests.benchmarks.cpu_settings [--rounds N]. One thread. Kernels are those of a
process, so each number is of a fresh one; the sides take turns and medians are compared. `encode`:
features of 192 images of 160 px by a frozen MobileNetV2, random weights. Stops with an error where
results differ by more than rounding.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable

import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.encoders import encode_images
from tasks.core.networks.image_encoders import timm
from tests.benchmarks.measuring import in_fresh_process
from tests.benchmarks.timing import alternate


def encode(batch_size: int) -> Callable[[], float]:
    """Return the work, which gives the norm of the features."""
    encoder = timm.build(
        timm.Config(
            name="mobilenetv2_100",
            weights="random",
            kwargs={"pad_type": "same"},
            mean=None,
            std=None,
        ),
        seed=0,
    )
    images = torch.randint(
        0, 256, (192, 160, 160, 3), generator=make_generator(0), dtype=torch.uint8
    ).numpy()
    return lambda: float(encode_images(encoder, images, device="cpu", batch_size=batch_size).norm())


# work -> side -> what to do; the first side is what the others are compared with.
WORK = {"encode": {"batches of 64": lambda: encode(64), "batches of 16": lambda: encode(16)}}


def measure(work: str, side: str) -> tuple[float, float]:
    """Return processor seconds of the third run in this process, and what the first one gave."""
    torch.set_num_threads(1)
    run = WORK[work][side]()
    result, _ = run(), run()
    started = time.process_time()
    run()
    return time.process_time() - started, result


def main() -> None:
    """Print the table, or one measurement for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    print("| work | side | seconds | against the first |\n|---|---|---|---|")
    for work, sides in WORK.items():
        _, found = alternate(
            {side: functools.partial(_fresh, work, side) for side in sides}, options.rounds
        )
        first = next(iter(found.values()))
        plain, result = statistics.median(seconds for seconds, _ in first), first[0][1]
        for side, values in found.items():
            if any(abs(other - result) > 1e-3 * abs(result) for _, other in values):
                raise SystemExit(f"{work}, {side}: {values} differ from {result}")
            seconds = statistics.median(seconds for seconds, _ in values)
            print(f"| {work} | {side} | {seconds:.3f} | {seconds / plain:.2f} |", flush=True)


def _fresh(work: str, side: str, number: int) -> tuple[float, float]:
    seconds, result = in_fresh_process(
        "tests.benchmarks.cpu_settings", ["--one", work, side], {"OMP_NUM_THREADS": "1"}
    )
    return seconds, result


if __name__ == "__main__":
    main()
