"""Runs the stages on a few rows of the dataset in a folder of its own, and measures them."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tasks import memory
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


def usage_of(folder: Path) -> Usage:
    """Return the seconds that the manifest of an artifact records, and its bytes."""
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Usage(manifests.read(folder, "seconds").facts["seconds"], disk_bytes=disk)


def free_seconds() -> float:
    """Return the seconds of a clock that stands still while this thread waits for a core that other
    work has. Elsewhere than on Linux it never stands still.
    """
    try:
        # Ns ready to run, without a core
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except (OSError, IndexError):
        waited = 0
    return time.perf_counter() - waited / 1e9


@dataclass(frozen=True)
class _Picked(Plugin):
    """A dataset plugin that gives chosen rows in place of all; it is its own module."""

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
        """Make a cell with other counts in a folder of its own, and return what it took.

        Its seconds are those of the manifest, less the share in which it waited for a core.
        """
        inputs = standing(cell.inputs, self.artifact)
        work = rewritten(cell.work, lambda name, value: counts.get(name, value))
        if cell.stage == "prepare_data":
            work = replace(work, dataset=_Picked(**vars(work.dataset), rows=self.rows))
        # Stages write below the working directory: here nothing of the profile is touched
        with contextlib.chdir(tempfile.mkdtemp(dir=self.folder)), memory.watch() as peak:
            started, free = time.perf_counter(), free_seconds()
            ref = cell.make(work, *inputs)
            share = (free_seconds() - free) / (time.perf_counter() - started)
            folder = ref.folder.resolve()
        # An absolute path, since the working directory changes back
        self.made[cell, *counts.items()] = Ref(str(folder), ref.digest)
        usage = usage_of(folder)
        return Usage(usage.seconds * share, peak.host_bytes, peak.card_bytes, usage.disk_bytes)


def shrink(params: Params, text_encoder: Plugin) -> Params:
    """Return the parameters with all counts that repeat an artifact at one.

    Networks have random weights and small rates: they cost what trained ones do, need no download
    and stay finite.
    """

    def small(name: str, value: Any) -> Any:
        # Making a coreset also makes what its method shares, and its seconds would count here
        if name.endswith(ONES) or (name.startswith("coresets.") and name.endswith(COUNTED)):
            return 1
        # A method of distillation has an option of this name too
        if name.endswith("image_encoder.config.weights"):
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
