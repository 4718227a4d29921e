"""What a run of a profile will take, stage by stage: each kind of artifact is made in miniature,
and scaled by the counts of its stage.

`inventory.py` says what there is to make, with its counts; `miniature.py` makes it on a few rows. A
stage's seconds are those that manifests record: starting Python, Prefect and MLflow, and verifying
what is there, come on top.
"""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from tasks import memory
from tasks.core.data.storage import EMBEDDINGS
from tasks.core.distillation.buffer import kept_bytes
from tasks.core.evaluation.retrieval import recall
from tasks.core.foundations.tensor_files import map_tensor
from tasks.core.networks.text_encoders import hashed
from tasks.core.training.embedding import embed_split
from tasks.device import choose_device
from tasks.exchange.found import imported
from tasks.models import new_model, open_split
from tasks.planning import miniature
from tasks.planning.inventory import Cell, Entry, Usage, cells_of, digests, look, standing
from tasks.planning.miniature import World, free_seconds, usage_of
from tasks.search import recall_by_search
from tasks.settings.params import Params
from tasks.settings.validation import Plugin
from tasks.stages import STAGES
from tasks.store import manifests
from tasks.student_models import load_student_encoder

FLOAT_BYTES = 4
FEW_ROWS = 4  # of validation and test
MORE_ROWS = 256  # of training that the larger miniature has beyond the smaller one
MEASURED_SECONDS, MOST_REPEATS = 1.0, 20  # of work that repeats
SHORT_SECONDS, LOOKS = 0.4, 3


@dataclass(frozen=True)
class Plan:
    """Every artifact of a profile, and what an honest reader should know about the numbers.

    Attributes:
        load: wall seconds for each second of work while this was measured. The seconds of the
            entries are for a machine that does nothing else.
    """

    profile: str
    entries: list[Entry]
    notes: list[str]
    load: float

    def of(self, stage: str) -> list[Entry]:
        """Return the entries of one stage."""
        return [entry for entry in self.entries if entry.cell.stage == stage]


def total(entries: list[Entry]) -> Usage:
    """Return the sum of seconds and disk and the peak of memory: artifacts are made one after the
    other.
    """
    usages = [astuple(entry.usage) for entry in entries]
    seconds, host, gpu, disk = zip(astuple(Usage()), *usages, strict=True)
    return Usage(sum(seconds), max(host), max(gpu), sum(disk))


def make_plan(params: Params, folder: Path) -> Plan:
    """Return the plan of a profile; measures what is not cached, in the empty folder `folder`.

    Raises:
        ValueError: an imported set does not fit what the run will make.
        FileNotFoundError, ValueError: raw data or the text encoder are needed to measure, and are
            not there or bad.
    """
    entries = look(cells_of(params))
    # Called for its checks alone: a set that does not fit ends the plan before anything is measured
    imported(params, digests(entries))
    if all(entry.ref for entry in entries):
        return Plan(params.profile, entries, ["all artifacts are there"], 1.0)
    for stage in STAGES.values():
        stage.import_libraries()
    # The first call notes what an idle process holds, so it comes after the imports and before any
    # work
    memory.idle_bytes()
    started, free = time.perf_counter(), free_seconds()
    planner = _Planner(params, entries, folder)
    entries = [
        entry if entry.ref else replace(entry, usage=planner.usage(entry.cell)) for entry in entries
    ]
    load = (time.perf_counter() - started) / (free_seconds() - free)
    notes = [
        "networks are measured with random weights, which cost what trained ones do",
        f"seconds are those of a free machine; at the load of this one multiply them by {load:.1f}",
    ]
    return Plan(params.profile, entries, notes, load)


def grown(usage: Usage, once: Usage, last: Usage, steps: float, files: float) -> Usage:
    """Return `usage` grown by what the measurement `last` took more than `once`.

    Its seconds grow by `steps` times the difference, its bytes on disk by `files` times. More work
    never takes less time. Memory is the highest of `usage` and `last`.
    """
    return Usage(
        usage.seconds + steps * max(0.0, last.seconds - once.seconds),
        max(usage.host_bytes, last.host_bytes),
        max(usage.gpu_bytes, last.gpu_bytes),
        usage.disk_bytes + int(files * (last.disk_bytes - once.disk_bytes)),
    )


class _Planner:
    """Measures kinds of artifacts in two miniatures; the larger one has more images."""

    def __init__(self, params: Params, entries: list[Entry], folder: Path) -> None:
        self.params, self.entries = params, entries
        refs = {entry.cell.name: entry.ref for entry in entries}
        started = free_seconds()
        rows = miniature.rows_of(params, refs["prepared"])
        self.listing = free_seconds() - started
        self.num_images = miniature.num_images(rows)
        self.captions_each = sum(len(row.captions) for row in rows) / len(rows)
        text = params.text_encoder
        if embeddings := refs["embeddings"]:
            # Vectors of the same width do
            width = map_tensor(embeddings.folder / EMBEDDINGS, "embeddings").shape[1]
            config = hashed.Config(dim=width, bigram_weight=0.0, seed=0)
            text = Plugin("text_encoders", "hashed", config)
        cells = cells_of(miniature.shrink(params, text))
        # Reversed, so that the first cell of each kind stays
        self.cells = {cell.kind: cell for cell in reversed(cells)}
        largest = params.general.budgets[-1]
        batch = max(params.evaluate.full.batch_size, params.train_experts.batch_size)
        # The smaller miniature holds the largest set, and a whole batch where there is one
        few = max(largest, min(batch, self.num_images["train"] // 2))
        self.small = World(folder / "small", miniature.pick(rows, few, FEW_ROWS))
        more = miniature.pick(rows, few + max(batch, MORE_ROWS), 2 * FEW_ROWS)
        self.large = World(folder / "large", more)
        self.warm: set[str] = set()
        self.measured: dict[Any, Usage] = {}
        self.scorings: dict[str, tuple[float, float]] = {}

    def usage(self, cell: Cell) -> Usage:
        """Return what making a cell will take.

        Where artifacts of its kind are there, seconds and disk are those of their manifests.
        Otherwise two measurements are extrapolated by the counts of the cell.
        """
        mini, ones = self.cells[cell.kind], dict.fromkeys(cell.repeats, 1)
        once = usage = self._measure(self.small, mini, ones)
        made = [
            usage_of(entry.ref.folder)
            for entry in self.entries
            if entry.ref and (entry.cell.kind, entry.cell.repeats) == (cell.kind, cell.repeats)
        ]
        if made:
            seconds = sum(usage.seconds for usage in made) / len(made)
            return replace(once, seconds=seconds, disk_bytes=made[0].disk_bytes)
        passes = sum(cell.repeats.values())
        if cell.split:
            few, many, images = (
                place.num_images[cell.split] for place in (self.small, self.large, self)
            )
            count = 1 + _further(once.seconds * many / few)
            last = self._measure(self.large, mini, dict.fromkeys(ones, count))
            # A line through two points: images passed over in the small miniature, once, and in
            # the large one, `count` times
            first, second = few * (len(ones) or 1), many * (count * len(ones) or 1)
            steps = (images * (passes or 1) - first) / max(1, second - first)
            # Bytes come with repetitions (snapshots), or else with images
            files = (passes - len(ones)) / len(ones) / (count - 1) if ones else steps
            usage = grown(usage, once, last, steps, files)
        else:
            for name, count in cell.repeats.items():
                # As many repetitions as take about a second, so that their difference is more than
                # noise
                if more := min(_further(once.seconds), count - 1):
                    last = self._measure(self.small, mini, {**ones, name: 1 + more})
                    usage = grown(usage, once, last, (count - 1) / more, 0.0)
        seconds = usage.seconds + (self.listing if cell.stage == "prepare_data" else 0.0)
        if any(cell.scorings):
            val, test = self._scoring(mini)
            seconds += cell.scorings[0] * val + cell.scorings[1] * test
        return self._with_memory(cell, replace(usage, seconds=seconds), once)

    def _measure(self, world: World, mini: Cell, counts: dict[str, int]) -> Usage:
        """Return what a cell takes with these counts; short work is measured several times, and the
        shortest counts.

        The first cell of a stage also pays for what a process pays once, so it is made again.
        """
        known = (world, mini, *counts.items())
        if known not in self.measured:
            looks = [world.make(mini, counts)]
            while mini.stage not in self.warm or (
                len(looks) < LOOKS and looks[-1].seconds < SHORT_SECONDS
            ):
                self.warm.add(mini.stage)
                looks.append(world.make(mini, counts))
            shortest = min(looks, key=lambda usage: usage.seconds)
            # Memory of the first look: buffers that a process keeps are in that one alone
            usage = grown(shortest, shortest, looks[0], 0.0, 0.0)
            self.measured[known] = usage
        return self.measured[known]

    def _with_memory(self, cell: Cell, usage: Usage, once: Usage) -> Usage:
        """Return `usage` with the memory that a miniature does not show: features of the whole
        training split, the buffer of all experts, and arrays that are written.
        """
        device, host, gpu = choose_device(), usage.host_bytes, usage.gpu_bytes
        if cell.stage == "select_coresets":
            start = self.small.artifact(self.cells["start"])
            facts = manifests.read(start.folder, "out_dim").facts
            width = self.params.model.embed_dim or facts["out_dim"]
            rows = self.num_images["train"] * (1 + self.captions_each)
            host += 2 * int(rows * width) * FLOAT_BYTES
        elif cell.stage == "distill" and cell.work.method.needs_experts:
            expert = usage_of(self.small.artifact(self.cells["expert"]).folder).disk_bytes
            further = self.params.train_experts.num_experts - 1
            buffer = min(further * expert, kept_bytes(device))
            host, gpu = (host, gpu + buffer) if device.type == "cuda" else (host + buffer, gpu)
        elif cell.stage not in ("prepare_data", "distill"):
            host += 2 * max(0, usage.disk_bytes - once.disk_bytes)
        return replace(usage, host_bytes=host, gpu_bytes=gpu)

    def _scoring(self, mini: Cell) -> tuple[float, float]:
        """Return the seconds of scoring the validation and the test split once.

        Splits of the dataset's size repeat one image and one caption, which cost what others do;
        ranks are those of random embeddings, because equal ones take longer.
        """
        network, device = mini.work.network, choose_device()
        if network.name not in self.scorings:
            inputs = standing(mini.inputs[0], self.small.artifact)
            encoder = load_student_encoder(network, inputs.start, device)
            one = open_split(network, inputs, "val")
            model = new_model(network, encoder, one.text_embeds.shape[1], "plan")
            found = []
            for split, score in (("val", recall), ("test", recall_by_search)):
                images = self.num_images[split]
                captions = int(images * self.captions_each)
                whole = replace(
                    one,
                    images=np.broadcast_to(one.images[:1], (images, *one.images.shape[1:])),
                    features=None if one.features is None else one.features[:1].expand(images, -1),
                    text_embeds=one.text_embeds[:1].expand(captions, -1),
                    caption_image_idx=torch.arange(captions) * images // captions,
                )
                started = free_seconds()
                img, txt = map(torch.randn_like, embed_split(model, whole, encoder, device=device))
                score(normalize(img, dim=1), normalize(txt, dim=1), whole.caption_image_idx)
                found.append(free_seconds() - started)
            self.scorings[network.name] = (found[0], found[1])
        return self.scorings[network.name]


def _further(seconds: float) -> int:
    """Return how often work is repeated beyond once to be measured."""
    return max(1, min(MOST_REPEATS, int(MEASURED_SECONDS / seconds)))
