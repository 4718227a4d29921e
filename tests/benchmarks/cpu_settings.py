"""What the stages choose on the CPU, products by oneDNN and small batches of frozen encoders, against torch as it comes.

Run: python -m tests.benchmarks.cpu_settings [--rounds N]. One thread. Kernels are those of a process, so each number is of a fresh one;
the sides take turns and medians are compared. `encode`: features of 192 images of 160 px by a frozen MobileNetV2. `epoch`: one epoch of
a ViT (vit_tiny at 128 px) on 64 pairs, batch 32. Random weights. Stops with an error where results differ by more than rounding.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable

import torch

from tasks.core.dual_encoder import build_dual_encoder
from tasks.core.encoders import encode_images
from tasks.core.image_encoders import timm
from tasks.core.losses import info_nce
from tasks.core.matrix_products import use_fast_products
from tasks.core.seeding import make_generator
from tests.benchmarks.measuring import in_fresh_process
from tests.benchmarks.timing import alternate


def encode(batch_size: int) -> Callable[[], float]:
    """Return the work, which gives the norm of the features."""
    encoder = timm.build(timm.Config(name="mobilenetv2_100", weights="random", kwargs={"pad_type": "same"}, mean=None, std=None), seed=0)
    images = torch.randint(0, 256, (192, 160, 160, 3), generator=make_generator(0), dtype=torch.uint8).numpy()
    return lambda: float(encode_images(encoder, images, device="cpu", batch_size=batch_size).norm())


def epoch() -> Callable[[], float]:
    """Return the work, which gives the loss of the last batch."""
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


# work -> side -> what to do and whether by oneDNN's products; the first side is torch as it comes.
WORK = {
    "encode": {"batches of 64": (lambda: encode(64), False), "batches of 16": (lambda: encode(16), False)},
    "epoch": {"torch": (epoch, False), "oneDNN": (epoch, True)},
}


def measure(work: str, side: str) -> tuple[float, float]:
    """Return processor seconds of the third run in this process, and what the first one gave."""
    make, is_fast = WORK[work][side]
    torch.set_num_threads(1)
    if is_fast:
        use_fast_products()
    run = make()
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
        _, found = alternate({side: functools.partial(_fresh, work, side) for side in sides}, options.rounds)
        first = next(iter(found.values()))
        plain, result = statistics.median(seconds for seconds, _ in first), first[0][1]
        for side, values in found.items():
            if any(abs(other - result) > 1e-3 * abs(result) for _, other in values):
                raise SystemExit(f"{work}, {side}: {values} differ from {result}")
            seconds = statistics.median(seconds for seconds, _ in values)
            print(f"| {work} | {side} | {seconds:.3f} | {seconds / plain:.2f} |", flush=True)


def _fresh(work: str, side: str, number: int) -> tuple[float, float]:
    seconds, result = in_fresh_process("tests.benchmarks.cpu_settings", ["--one", work, side], {"OMP_NUM_THREADS": "1"})
    return seconds, result


if __name__ == "__main__":
    main()
