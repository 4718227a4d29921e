"""A dataset of a few rows in a folder of its own, on which the real stage tasks run: what they cost
there is measured.

Networks have random weights and small learning rates: they cost what trained ones do, need no
download and stay finite.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from tasks import train_experts
from tasks.core.data.left_out import LeftOut
from tasks.core.data.preparation import check_examples, prepare
from tasks.core.data.storage import EMBEDDINGS
from tasks.core.foundations.file_names import CAPTIONS, IMAGES, NAMES
from tasks.core.foundations.records import ImageCaptions
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.tensor_files import map_tensor, save_tensors
from tasks.keys import Inputs
from tasks.planning.calibration import free_seconds
from tasks.settings import steps
from tasks.settings.params import Params, Plugin
from tasks.store import artifacts, manifests
from tasks.store.artifacts import Key, Ref

CALM = 1e-3  # learning rates and step sizes: random networks must not leave the finite numbers
TINY_PAIRS = 4
_ANY = Key("plan", {}, {}, "")  # no stage made these artifacts
SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Usage:
    """What a piece of work takes: seconds, bytes resident at its peak, bytes on the card at its
    peak, bytes on disk.
    """

    seconds: float
    host_bytes: int = 0
    gpu_bytes: int = 0
    disk_bytes: int = 0

    def plus(
        self, *, seconds: float = 0.0, host: float = 0.0, gpu: float = 0.0, disk: float = 0.0
    ) -> Usage:
        """Return the sum; a work's seconds are never negative."""
        return Usage(
            max(0.0, self.seconds + seconds),
            self.host_bytes + int(host),
            self.gpu_bytes + int(gpu),
            self.disk_bytes + int(disk),
        )


class Peak:
    """Largest memory seen while `watch` was open, in bytes."""

    def __init__(self) -> None:
        self.host_bytes, self.gpu_bytes = 0, 0


@functools.cache
def idle_bytes() -> int:
    """Return what was resident at the first call, which comes once the libraries of the stages are
    imported and before any work.
    """
    return int(psutil.Process().memory_info().rss)


@contextlib.contextmanager
def watch() -> Iterator[Peak]:
    """Find the peak of host memory, sampled, and of the card's counter of allocated memory.

    A stage runs in a process of its own, so that what earlier measurements left behind here is none
    of its memory: the peak is that of an idle process and what the work adds. What a process
    allocates once (buffers of thread pools and kernels) is in the first work alone.
    """
    peak, ended, process = Peak(), threading.Event(), psutil.Process()
    idle, before = idle_bytes(), _trimmed_bytes(process)
    peak.host_bytes = idle

    def sample() -> None:
        while not ended.is_set():
            peak.host_bytes = max(peak.host_bytes, idle + process.memory_info().rss - before)
            ended.wait(SAMPLE_SECONDS)

    thread = threading.Thread(target=sample, daemon=True)
    has_card = torch.cuda.is_available()
    if has_card:
        torch.cuda.reset_peak_memory_stats()
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.host_bytes = max(peak.host_bytes, idle + process.memory_info().rss - before)
        peak.gpu_bytes = torch.cuda.max_memory_allocated() if has_card else 0


def _trimmed_bytes(process: psutil.Process) -> int:
    """Return what is resident once freed memory went back to the system, which glibc does when it
    is asked.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return int(process.memory_info().rss)


class World:
    """A prepared dataset, random embeddings and a start artifact in `folder`; stage tasks run
    inside it.

    Args:
        params: see `shrink`.
        rows: the pictures of the three splits.
        text_dim: width of the embeddings.
    """

    def __init__(
        self, folder: Path, params: Params, rows: Sequence[ImageCaptions], text_dim: int
    ) -> None:
        self.folder, self.params = folder, params
        place, section = folder / "prepared", params.prepare_data
        place.mkdir(parents=True)
        prepare(
            rows,
            place,
            image_size=section.image_size,
            max_pixels=section.max_pixels,
            left_out=LeftOut(section.max_left_out),
        )
        self.prepared = Ref(str(place), artifacts.seal(place, _ANY, {}).digest)
        num_captions = sum(len(row.captions) for row in rows)
        embeds = torch.randn(num_captions, text_dim, generator=make_generator(params.seed, "plan"))
        (folder / "embeddings").mkdir()
        save_tensors(folder / "embeddings" / EMBEDDINGS, {"embeddings": embeds})
        self.embeddings = Ref(
            str(folder / "embeddings"), artifacts.seal(folder / "embeddings", _ANY, {}).digest
        )
        self.start, self.start_usage = self.make(
            train_experts.build_start, steps.start(params), self.prepared
        )

    def inputs(self, start: Ref) -> Inputs:
        """Return what a network that begins with `start` is trained on here."""
        return Inputs(self.prepared, self.embeddings, start)

    def make(self, task: Any, *given: Any) -> tuple[Ref, Usage]:
        """Run a stage task as it is, and return its artifact and what it took: seconds of its
        manifest, less those without a core.
        """
        with contextlib.chdir(self.folder), watch() as peak:
            started, free = time.perf_counter(), free_seconds()
            ref = task.fn(*given, force=True)
            share = (free_seconds() - free) / (time.perf_counter() - started)
            folder = ref.folder.resolve()
        seconds = manifests.read(folder, "seconds").facts["seconds"] * share
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Ref(str(folder), ref.digest), Usage(seconds, peak.host_bytes, peak.gpu_bytes, disk)


def shrink(params: Params) -> Params:
    """Return parameters with which the stages of a profile run on a few rows: same networks,
    batches and sets.
    """
    experts = _calm(replace(params.train_experts, batch_size=TINY_PAIRS, num_experts=1))
    recipes = {name: _calm(getattr(params.evaluate, name)) for name in ("small", "full")}
    return replace(
        params,
        image_encoder=_random(params.image_encoder),
        train_experts=experts,
        distillers={
            name: replace(plugin, config=_calm(plugin.config))
            for name, plugin in params.distillers.items()
        },
        evaluate=replace(params.evaluate, num_eval=1, **recipes),
        students={
            name: replace(student, image_encoder=_random(student.image_encoder))
            for name, student in params.students.items()
        },
    )


def rows_of(params: Params, prepared: Ref | None) -> list[ImageCaptions]:
    """Return all examples of the dataset: from the prepared artifact when it is there, otherwise
    from the raw data.

    Raises:
        FileNotFoundError, ValueError: the raw data are not there, or bad.
    """
    if prepared is None:
        left_out = LeftOut(params.prepare_data.max_left_out)
        return check_examples(
            params.dataset.module.examples(params.dataset.config, left_out), left_out
        )
    import pandas as pd

    names = pd.read_parquet(prepared.folder / NAMES)
    captions = pd.read_parquet(prepared.folder / CAPTIONS).groupby("image_idx")["text"].agg(tuple)
    images = map_tensor(prepared.folder / IMAGES, "images")
    return [
        ImageCaptions(name, split, captions[index], functools.partial(_picture, images, index))
        for index, (name, split) in enumerate(zip(names["name"], names["split"], strict=True))
    ]


def _picture(images: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(np.asarray(images[index]))


def _random(plugin: Plugin) -> Plugin:
    has_weights = any(field.name == "weights" for field in fields(plugin.config))
    return (
        replace(plugin, config=replace(plugin.config, weights="random")) if has_weights else plugin
    )


def _calm(section: Any) -> Any:
    assert is_dataclass(section)
    names = [field.name for field in fields(section)]
    rates = [
        name
        for name in names
        if name.startswith(("lr_", "step_size_")) and name not in ("lr_decay", "step_size_scale")
    ]
    inner = {
        name: _calm(getattr(section, name))
        for name in names
        if is_dataclass(getattr(section, name))
    }
    return replace(section, **dict.fromkeys(rates, CALM), **inner)  # type: ignore[type-var]
