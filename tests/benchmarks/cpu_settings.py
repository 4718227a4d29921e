"""What the stages set on the CPU, memory that is kept and products by oneDNN, against torch as it comes.

Run: python -m tests.benchmarks.cpu_settings [--rounds N]. One thread. Settings are those of a process, so each number is of a fresh one;
the sides take turns and medians are compared. `encode`: features of 192 images of 160 px by a frozen MobileNetV2, batches of 64. `epoch`:
one epoch of a ViT (vit_tiny at 128 px) on 64 pairs, batch 32. Random weights. Stops with an error where results differ by more than
rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from tasks.core.allocator import keep_freed_memory
from tasks.core.dual_encoder import build_dual_encoder
from tasks.core.encoders import encode_images
from tasks.core.image_encoders import timm
from tasks.core.losses import info_nce
from tasks.core.matrix_products import use_fast_products
from tasks.core.seeding import make_generator

SIDES = {"torch": (False, False), "memory": (True, False), "products": (False, True), "both": (True, True)}


def encode() -> Callable[[], float]:
    """Return the work and, of its result, the norm."""
    encoder = timm.build(timm.Config(name="mobilenetv2_100", weights="random", kwargs={"pad_type": "same"}, mean=None, std=None), seed=0)
    images = torch.randint(0, 256, (192, 160, 160, 3), generator=make_generator(0), dtype=torch.uint8).numpy()
    return lambda: float(encode_images(encoder, images, device="cpu", batch_size=64).norm())


def epoch() -> Callable[[], float]:
    """Return the work and, of its result, the loss of the last batch."""
    encoder = timm.build(timm.Config(name="vit_tiny_patch16_224", weights="random", kwargs={"img_size": 128}, mean=None, std=None), seed=0)
    model = build_dual_encoder(encoder.module, out_dim=encoder.out_dim, text_dim=64, trainable="full", embed_dim=None, dropout=0.0, seed=0)
    images, texts = (torch.randn(*shape, generator=make_generator(0, name)) for name, shape in (("i", (64, 3, 128, 128)), ("t", (64, 64))))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)

    def run() -> float:
        for rows in torch.arange(64).split(32):
            loss = info_nce(*model(images[rows], texts[rows], None))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return float(loss)

    return run


WORK = {"encode": encode, "epoch": epoch}


def measure(work: str, side: str) -> tuple[float, float]:
    """Return processor seconds of the third run in this process, and what the first one gave."""
    is_kept, is_fast = SIDES[side]
    torch.set_num_threads(1)
    if is_kept:
        keep_freed_memory()
    if is_fast:
        use_fast_products()
    run = WORK[work]()
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
    print("| work | side | seconds | against torch |\n|---|---|---|---|")
    for work in WORK:
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side, values in found.items():
                values.append(_fresh(work, side))
        plain, result = statistics.median(seconds for seconds, _ in found["torch"]), found["torch"][0][1]
        for side, values in found.items():
            if any(abs(other - result) > 1e-3 * abs(result) for _, other in values):
                raise SystemExit(f"{work}, {side}: {values} differ from {result}")
            seconds = statistics.median(seconds for seconds, _ in values)
            print(f"| {work} | {side} | {seconds:.3f} | {seconds / plain:.2f} |", flush=True)


def _fresh(work: str, side: str) -> tuple[float, float]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.cpu_settings", "--one", work, side]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    seconds, result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    return seconds, result


if __name__ == "__main__":
    main()
