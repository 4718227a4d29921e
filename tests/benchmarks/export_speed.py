"""Seconds, bytes and peak memory of an export of 500 pairs at 224 px in each layout, from noise,
which nothing compresses. Target: 10 s. `python -m tests.benchmarks.export_speed`
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

import torch

from tasks import embed_captions, prepare_data, train_experts
from tasks.core.foundations.seeding import make_generator
from tasks.core.training.pair_set import PairSet
from tasks.exchange.export import Choice, export
from tasks.exchange.layouts import LAYOUTS
from tasks.exchange.pictures import PICTURES
from tasks.exchange.source import Part, Source
from tasks.settings import params, steps
from tasks.settings.sets import SetName
from tasks.store import artifacts
from tasks.store.manifests import Manifest
from tests.benchmarks.measuring import forget_process_peak, process_peak_mib
from tests.workspace import TINY, make_workspace

PAIRS, SIDE, TARGET = 500, 224, 10.0
SIZES = ("prepare_data.image_size=64", "prepare_data.options.image_size=64")


def main() -> None:
    """Print seconds and megabytes; stop where an export takes longer than the target."""
    with tempfile.TemporaryDirectory() as place:
        settings = (*TINY, *SIZES, f"prepare_data.options.num_train={PAIRS}")
        with contextlib.chdir(make_workspace(Path(place) / "copy", settings).folder):
            source = make_source()
            for layout in LAYOUTS:
                for picture in PICTURES:
                    _measure(source, Path(place) / f"{layout}-{picture}", layout, picture)


def _measure(source: Source, target: Path, layout: str, picture: str) -> None:
    choice = choice_of(layout, picture)
    forget_process_peak()
    started, processor = time.perf_counter(), time.process_time()
    done = export(source, target, choice)
    wall, seconds = time.perf_counter() - started, time.process_time() - processor
    size = f"{done.num_bytes / 1e6:7.1f} MB"
    told = f"{seconds:6.2f} s of processor, {wall:6.2f} s, {size}, {process_peak_mib():5.0f} MiB"
    print(f"{layout:12} {picture:5} {told} at its peak")
    if seconds > TARGET:
        raise SystemExit(f"{layout} took {seconds:.1f} s, the target is {TARGET} s")


def choice_of(layout: str, picture: str) -> Choice:
    """Return how a set is exported, without the test split."""
    return Choice(layout, picture, False, "unknown", "unknown")


def make_source() -> Source:
    """Return a set of noise with its inputs, which it makes in the working folder."""
    chosen = params.load()
    prepared = prepare_data.prepare_data.fn(steps.preparation(chosen))
    embeddings = embed_captions.embed_captions.fn(steps.embedding(chosen), prepared)
    start = train_experts.build_start.fn(steps.start(chosen), prepared)
    parts = []
    for ref in (prepared, embeddings, start):
        manifest = artifacts.verify(ref.folder)
        assert manifest
        parts.append(Part(ref.folder, manifest))
    images, begun = (
        torch.rand(PAIRS, 3, SIDE, SIDE, generator=make_generator(seed)) * 2.2 - 1.1
        for seed in (0, 1)
    )
    texts = torch.randn(PAIRS, 256, generator=make_generator(2))
    idx = {"image_idx": list(range(PAIRS)), "caption_idx": [5 * row for row in range(PAIRS)]}
    pairs = PairSet(images, texts, (0.5,) * 3, (0.5,) * 3, provenance=idx)
    what = {"method": {"name": "noise", "options": {}}, "model": {**_model(), "lora": None}}
    own = Manifest("", "distill", {**what, "seed": 0}, {}, "", {}, {"git": _unknown()})
    return Source(
        SetName("noise", PAIRS),
        "toy",
        False,
        pairs,
        {"images": begun, "text_embeds": texts.clone()},
        Part(Path("none"), own),
        *parts,
        (),
        (),
        chosen.evaluate.small.__dict__,
    )


def _model() -> dict[str, object]:
    return {"trainable": "full", "embed_dim": None, "dropout": 0.1, "tau": 0.07}


def _unknown() -> dict[str, None]:
    return {"commit": None, "is_dirty": None}


if __name__ == "__main__":
    main()
