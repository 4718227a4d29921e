"""A dataset of a few rows in a folder of its own, in which the stages run: what they take there is
measured.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import platform
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from tasks.core.data.left_out import LeftOut
from tasks.core.data.preparation import check_examples
from tasks.core.foundations.file_names import CAPTIONS, IMAGES, NAMES
from tasks.core.foundations.records import SPLITS, ImageCaptions
from tasks.core.foundations.tensor_files import map_tensor
from tasks.planning.inventory import COUNTED, Cell, Usage, rewritten, standing
from tasks.settings.params import Params
from tasks.settings.validation import Plugin
from tasks.store import manifests
from tasks.store.artifacts import Ref

ONES = ("num_experts", "coreset_epochs", "num_eval", "num_validations")
CALM = 1e-3  # rates and step sizes: random networks must not leave the finite numbers
RATES = ("lr_", "step_size_")
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def usage_of(folder: Path) -> Usage:
    """Return the seconds that the manifest of an artifact records, and its bytes."""
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Usage(manifests.read(folder, "seconds").facts["seconds"], disk_bytes=disk)


def free_seconds() -> float:
    """Return a clock that stands still while this thread waits for a core that other work has
    (Linux; elsewhere it does not).
    """
    try:
        # Ns ready to run, without a core
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except (OSError, IndexError):
        waited = 0
    return time.perf_counter() - waited / 1e9


@functools.cache
def idle_bytes() -> int:
    """Return what was resident at the first call, which comes once the libraries of the stages are
    imported and before any work.
    """
    gc.freeze()  # a collection need not look at them
    atexit.register(gc.unfreeze)  # what is frozen at the end, triton would call leaked
    return _resident_bytes()


@contextlib.contextmanager
def watch() -> Iterator[list[int]]:
    """Give a list that at the end holds the peaks of host memory and of the card's allocations.

    A stage runs in a process of its own, so that what earlier measurements left behind here is none
    of its memory: the peak is that of an idle process and what the work adds. What a process
    allocates once (buffers of thread pools and kernels) is in the first work alone.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back to the system
    left, peaks, has_card = _resident_bytes() - idle_bytes(), list[int](), torch.cuda.is_available()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    if has_card:
        torch.cuda.reset_peak_memory_stats()
    yield peaks
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    peaks += [peak - left, torch.cuda.max_memory_allocated() if has_card else 0]


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


@dataclass(frozen=True)
class _Picked(Plugin):
    """A dataset plugin, its own module, that gives chosen rows in place of all."""

    rows: Sequence[ImageCaptions] = ()

    @property
    def module(self) -> Any:
        return self

    def examples(self, config: Any, left_out: LeftOut) -> Sequence[ImageCaptions]:
        return self.rows

    def raw_digest(self, config: Any, digest_of: Any) -> str:
        return str(len(self.rows))


class World:
    """Stages run in `folder` on a few `rows` of all three splits."""

    def __init__(self, folder: Path, rows: list[ImageCaptions]) -> None:
        folder.mkdir()
        self.folder, self.rows, self.num_images = folder, rows, num_images(rows)
        self.made: dict[Any, Ref] = {}

    def artifact(self, cell: Cell) -> Ref:
        """Return the artifact of a cell that others read, made once.

        Its repeated work is done once. Experts keep their epochs, which distillation starts from.
        """
        counts = {} if cell.stage == "train_experts" else dict.fromkeys(cell.repeats, 1)
        known = (cell, *counts.items())
        if known not in self.made:
            self.make(cell, counts)
        return self.made[known]

    def make(self, cell: Cell, counts: dict[str, int]) -> Usage:
        """Make a cell with other counts in a folder of its own and say what it took: seconds of its
        manifest, less those without a core.
        """
        inputs = standing(cell.inputs, self.artifact)
        work = rewritten(cell.work, lambda name, value: counts.get(name, value))
        if cell.stage == "prepare_data":
            work = replace(work, dataset=_Picked(**vars(work.dataset), rows=self.rows))
        with contextlib.chdir(tempfile.mkdtemp(dir=self.folder)), watch() as peaks:
            started, free = time.perf_counter(), free_seconds()
            ref = cell.make(work, *inputs)
            share = (free_seconds() - free) / (time.perf_counter() - started)
            folder = ref.folder.resolve()
        self.made[cell, *counts.items()] = Ref(str(folder), ref.digest)
        usage = usage_of(folder)
        return Usage(usage.seconds * share, peaks[0], peaks[1], usage.disk_bytes)


def shrink(params: Params, text_encoder: Plugin) -> Params:
    """Return parameters with which every kind of artifact is made once.

    Networks have random weights and small rates: they cost what trained ones do, need no download
    and stay finite.
    """

    def small(name: str, value: Any) -> Any:
        # A coreset's miniature makes what its method shares as well, whose seconds are not its own
        if name.endswith(ONES) or (name.startswith("coresets.") and name.endswith(COUNTED)):
            return 1
        if name.endswith(".weights"):
            return "random"
        is_rate = any(part.startswith(RATES) for part in name.split("."))
        return CALM if is_rate and isinstance(value, float) else value

    return replace(rewritten(params, small), text_encoder=text_encoder)


def rows_of(params: Params, prepared: Ref | None) -> list[ImageCaptions]:
    """Return all examples of the dataset: from the prepared artifact when it is there, otherwise
    from the raw data.

    Raises:
        FileNotFoundError, ValueError: the raw data are not there, or bad.
    """
    if prepared is None:
        dataset, left_out = params.dataset, LeftOut(params.prepare_data.max_left_out)
        return check_examples(dataset.module.examples(dataset.config, left_out), left_out)
    import pandas as pd

    names = pd.read_parquet(prepared.folder / NAMES)
    captions = pd.read_parquet(prepared.folder / CAPTIONS).groupby("image_idx")["text"].agg(tuple)
    images = map_tensor(prepared.folder / IMAGES, "images")
    return [
        ImageCaptions(name, split, texts, functools.partial(Image.fromarray, picture))
        for name, split, texts, picture in zip(
            names["name"], names["split"], captions, images, strict=True
        )
    ]


def pick(rows: list[ImageCaptions], num_train: int, num_others: int) -> list[ImageCaptions]:
    """Return evenly spaced examples of each split."""
    found = []
    for split in SPLITS:
        own = [row for row in rows if row.split == split]
        count = min(num_train if split == "train" else num_others, len(own))
        found += [own[index * len(own) // count] for index in range(count)]
    return found


def num_images(rows: list[ImageCaptions]) -> Counter[str]:
    """Return the images of each split, and of `all`."""
    return Counter([*(row.split for row in rows), *["all"] * len(rows)])
