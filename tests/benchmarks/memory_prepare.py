"""Does memory grow with the number of images? Peak memory of preparing and of reading, at N and at
4 N toy images.

Run: python -m tests.benchmarks.memory_prepare [--images N]. Each number comes from a process of its
own. "peak" is the largest resident set, file pages mapped from the page cache included; "private"
leaves those out (Linux only).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tasks.core.data.datasets import toy
from tasks.core.data.left_out import LeftOut
from tasks.core.data.preparation import prepare
from tasks.core.data.storage import load_split
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.tensor_files import save_tensors

FACTOR, IMAGE_SIZE, EMBEDDING_DIM, BATCH_SIZE = 4, 64, 64, 32


def prepare_images(folder: Path, num_images: int) -> int:
    """Prepare `num_images` training images (one more for val and test each) in `folder`; return
    their bytes.
    """
    config = toy.Config(
        seed=0,
        num_train=num_images,
        num_val=1,
        num_test=1,
        image_size=IMAGE_SIZE,
        captions_per_image=5,
    )
    left_out = LeftOut(0.0)
    prepare(
        toy.examples(config, left_out),
        folder,
        image_size=IMAGE_SIZE,
        max_pixels=1_000_000,
        left_out=left_out,
    )
    return (folder / "images.safetensors").stat().st_size


def read_images(folder: Path, num_images: int) -> int:
    """Read every training row once in random order, in batches; return the bytes read."""
    num_bytes = 0
    split = load_split(folder, folder, "train")
    order = torch.randperm(split.num_images, generator=make_generator(0, "memory_prepare")).numpy()
    for start in range(0, split.num_images, BATCH_SIZE):
        num_bytes += split.images[order[start : start + BATCH_SIZE]].nbytes
    return num_bytes


def measure(module: str, *options: object) -> tuple[float, float]:
    """Run a module in a new process that prints its peak and its private memory; return them in
    MiB.
    """
    command = [sys.executable, "-m", module, *map(str, options)]
    output = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout
    peak, private = output.split()
    return float(peak), float(private)


def _measure(step: str, folder: Path, num_images: int) -> tuple[float, float]:
    return measure(
        "tests.benchmarks.memory_prepare",
        "--step",
        step,
        "--folder",
        folder,
        "--images",
        num_images,
    )


def main() -> None:
    """Print both measurements of both steps, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--step", choices=["prepare", "read"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        {"prepare": prepare_images, "read": read_images}[options.step](
            options.folder, options.images
        )
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, private_mib())
        return
    measured: dict[str, list[tuple[float, float]]] = {"prepare": [], "read": []}
    for count in (options.images, FACTOR * options.images):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            measured["prepare"].append(_measure("prepare", folder, count))
            embeds = torch.randn(
                (count + 2) * 5, EMBEDDING_DIM, generator=make_generator(0, "embeddings")
            )
            save_tensors(folder / "embeddings.safetensors", {"embeddings": embeds})
            measured["read"].append(_measure("read", folder, count))
    for step, ((peak, private), (peak_more, private_more)) in measured.items():
        print(
            f"{step}: {options.images} images {peak:.0f} MiB peak, {FACTOR * options.images} "
            f"images {peak_more:.0f} MiB peak, "
            f"ratio {peak_more / peak:.3f}; private {private:.0f} and {private_more:.0f} MiB, "
            f"ratio {private_more / private:.3f}"
        )


def private_mib() -> float:
    """Return the anonymous resident memory at the end of the step."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(
        (float(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")),
        float("nan"),
    )


if __name__ == "__main__":
    main()
