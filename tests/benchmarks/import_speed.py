"""Seconds and peak memory of an import of 500 pairs at 224 px: a published .pt file, an export, and
a folder of real pairs. Targets of the first: 10 s of processor, 1 GB.
`python -m tests.benchmarks.import_speed`

Each import is a process of its own, from its start to its end, as the command is.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from tasks import embed_captions, prepare_data, train_experts
from tasks.core.foundations.seeding import make_generator
from tasks.exchange.export import export
from tasks.exchange.imports import import_set
from tasks.exchange.pictures import encode
from tasks.exchange.published import Stated
from tasks.settings import params, steps
from tests.benchmarks.export_speed import PAIRS, SIDE, choice_of, make_source
from tests.benchmarks.measuring import in_fresh_process, process_peak_mib
from tests.workspace import ROOT, TINY, make_workspace

MAX_SECONDS, MAX_MIB = 10.0, 1e9 / 2**20
PUBLISHED = "set.pt"
SETTINGS = (
    *TINY,
    f"budgets=[{PAIRS}]",
    f"prepare_data.image_size={SIDE}",
    f"prepare_data.options.image_size={SIDE}",
    f"prepare_data.options.num_train={PAIRS}",
)
HALF = (0.5, 0.5, 0.5)
SOURCES = {
    PUBLISHED: Stated("hashed_256", HALF, HALF, "wbce", 3.0),
    "export": Stated(),
    "photos": Stated("hashed_256"),
}


def main() -> None:
    """Print seconds and megabytes; stop where the published file takes more than its target."""
    with tempfile.TemporaryDirectory() as place:
        folder = make_workspace(Path(place) / "copy", SETTINGS).folder
        with contextlib.chdir(folder):
            _write_sources(folder)
        here = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        for name in SOURCES:
            found = in_fresh_process("tests.benchmarks.import_speed", [str(folder), name], here)
            print(
                f"{name:8} {found['processor']:6.2f} s of processor, {found['wall']:6.2f} s, "
                f"{found['peak']:6.0f} MiB at its peak"
            )
            is_over = found["processor"] > MAX_SECONDS or found["peak"] > MAX_MIB
            if name == PUBLISHED and is_over:
                raise SystemExit(f"{name}: the targets are {MAX_SECONDS} s and {MAX_MIB:.0f} MiB")


def measure(folder: Path, name: str) -> None:
    """Import one source, and print what this process took."""
    with contextlib.chdir(folder):
        import_set(params.load(), folder / name, "theirs", SOURCES[name], is_replaced=True)
    found = {
        "processor": time.process_time(),
        "wall": time.time() - psutil.Process().create_time(),
        "peak": process_peak_mib(),
    }
    print(json.dumps(found))


def _write_sources(folder: Path) -> None:
    """Make what a set has to fit, and a source of each kind, of noise."""
    chosen = params.load()
    prepared = prepare_data.prepare_data.fn(steps.preparation(chosen))
    embed_captions.embed_captions.fn(steps.embedding(chosen), prepared)
    train_experts.build_start.fn(steps.start(chosen), prepared)
    draw = make_generator(3)
    content = {
        "image": torch.randn(PAIRS, 3, SIDE, SIDE, generator=draw),
        "text": torch.randn(PAIRS, 256, generator=draw),
        "similarity_params": [
            torch.rand(PAIRS, generator=draw),
            *torch.rand(2, PAIRS, 20, generator=draw),
        ],
        "syn_lr_img": torch.tensor(0.1),
        "syn_lr_txt": torch.tensor(0.1),
    }
    torch.save(content, folder / PUBLISHED)
    export(make_source(), folder / "export", choice_of("huggingface", "png"))
    (folder / "photos").mkdir()
    noise = np.random.default_rng(4)
    for number in range(PAIRS):
        picture = noise.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        (folder / f"photos/{number}.png").write_bytes(encode(picture, "png"))
        (folder / f"photos/{number}.txt").write_text(f"a picture of the number {number}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
