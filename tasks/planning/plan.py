"""What a run of a profile will take, stage by stage: each kind of artifact is measured on a
miniature and scaled by the counts.

`inventory.py` says what has to be made, `miniature.py` runs the stage tasks on a few rows. A
stage's seconds are those that manifests record: starting Python, Prefect and MLflow, and verifying
what is there, come on top.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks import distill, evaluate, report, select_coresets, train_experts
from tasks.core.distillation.buffer import kept_bytes
from tasks.device import choose_device
from tasks.planning import costs, miniature
from tasks.planning.calibration import free_seconds, pick
from tasks.planning.costs import Dataset
from tasks.planning.inventory import Cell, Inventory, take_stock
from tasks.planning.miniature import Usage, World
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.settings.sets import FULL, SetName
from tasks.stages import STAGES
from tasks.store.artifacts import Ref

BUSY = 1.1
MANY_PAIRS = 128  # more are not made for the sake of several batches


@dataclass(frozen=True)
class Entry:
    """A cell and what it will take; nothing when it is cached."""

    cell: Cell
    usage: Usage


@dataclass(frozen=True)
class Plan:
    """Every artifact of a profile, and what an honest reader should know about the numbers.

    Attributes:
        load: wall seconds for each second of work while this was measured; the entries' seconds
            include it.
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
    usages = [entry.usage for entry in entries]
    return Usage(
        sum(usage.seconds for usage in usages),
        max((usage.host_bytes for usage in usages), default=0),
        max((usage.gpu_bytes for usage in usages), default=0),
        sum(usage.disk_bytes for usage in usages),
    )


def make_plan(params: Params, folder: Path) -> Plan:
    """Return the plan of a profile; measures what is not cached, in the empty folder `folder`.

    Raises:
        FileNotFoundError, ValueError: raw data or the text encoder are needed to measure, and are
            not there or bad.
    """
    stock = take_stock(params)
    if all(cell.is_cached for cell in stock.cells):
        return Plan(
            params.profile,
            [Entry(cell, Usage(0.0)) for cell in stock.cells],
            ["all artifacts are there"],
            1.0,
        )
    return _Planner(params, stock, folder).plan()


class _Planner:
    """Measures each kind of artifact once, in the order of the stages."""

    def __init__(self, params: Params, stock: Inventory, folder: Path) -> None:
        self.params, self.stock, self.folder = params, stock, folder
        self.small = miniature.shrink(params)
        self.notes = ["networks are measured with random weights, which cost what trained ones do"]
        self.usages: dict[tuple[str, str | None], Usage] = {}

    def plan(self) -> Plan:
        """Return the plan; every cell that is not cached gets the usage of its kind."""
        for stage in STAGES.values():
            stage.import_libraries()
        miniature.idle_bytes()
        started, free = time.perf_counter(), free_seconds()
        data = costs.read_dataset(self.params, self.stock.prepared)
        if self.stock.is_wanted("prepared"):
            self.usages["prepared", None] = costs.prepare(self.params, data, self.folder)
        embed, text_dim = costs.embed(self.params, data, self.stock.embeddings)
        self.usages["embeddings", None] = embed
        tiny, wide = self._worlds(data, text_dim)
        self._train(data, tiny, wide)
        distilled = self._distill(data, tiny, wide)
        self._evaluate(data, tiny, wide, distilled)
        load = (time.perf_counter() - started) / max(free_seconds() - free, 1e-9)
        if load > BUSY:
            self.notes.append(
                "other work had the cores: seconds are those of this load; on a free machine "
                f"divide them by {load:.1f}"
            )
        return Plan(
            self.params.profile,
            [self._entry(cell, load) for cell in self.stock.cells],
            self.notes,
            load,
        )

    def _entry(self, cell: Cell, load: float) -> Entry:
        if cell.is_cached:
            return Entry(cell, Usage(0.0))
        usage = self.usages[cell.kind, cell.student]
        return Entry(cell, replace(usage, seconds=usage.seconds * load))

    def _worlds(self, data: Dataset, text_dim: int) -> tuple[World, World]:
        """A world of a few pairs for what is paid once, and one as wide as the largest set or batch
        for what repeats.
        """
        batch = self.params.train_experts.batch_size
        several = min(costs.MEASURED_BATCHES * batch, MANY_PAIRS)
        largest = max(
            *self.params.general.budgets, batch, self.params.evaluate.full.batch_size, several
        )
        few = miniature.TINY_PAIRS
        sizes = {"tiny": few, "wide": min(largest, data.num_images["train"])}
        made = [
            World(
                self.folder / name,
                self.small,
                pick(data.rows, {"train": size, "val": few, "test": few}),
                text_dim,
            )
            for name, size in sizes.items()
        ]
        return made[0], made[1]

    def _train(self, data: Dataset, tiny: World, wide: World) -> None:
        self.usages["start", None] = costs.start(
            self.small, data, wide, wide.start, tiny.start_usage
        )
        given = (steps.training(self.small), tiny.inputs(tiny.start))
        # Pays for what the first training of a process pays once
        disk = tiny.make(train_experts.train_expert, *given, 1)[1].disk_bytes
        self.expert, once = tiny.make(train_experts.train_expert, *given, 0)
        section = self.params.train_experts
        self.step = costs.step(
            self.small,
            wide,
            batch_size=section.batch_size,
            momentum=section.momentum,
            weight_decay=0.0,
        )
        epoch = self.step.seconds * data.num_images["train"] / section.batch_size
        highest = costs.highest(once, self.step)
        self.usages["first expert", None] = highest.plus(
            seconds=section.stored_epochs(0)[-1] * epoch
        )
        self.usages["expert", None] = replace(highest, disk_bytes=disk).plus(
            seconds=section.num_epochs * epoch
        )
        each = costs.embed_split(self.small, wide)
        for name in self.params.coresets:
            work = steps.selection(self.small, SetName(name, costs.TINY_BUDGET))
            chosen = (work, tiny.inputs(tiny.start), self.expert)
            _, once = tiny.make(select_coresets.select_coreset, *chosen)
            shared = (
                costs.untrained_shared(self.params.coresets[name], 8)[1]
                * data.num_images["train"]
                / section.batch_size
            )
            self.usages[f"{name}-shared", None] = costs.highest(once, self.step).plus(
                seconds=shared * self.step.seconds
            )
            for size in self.params.general.budgets:
                self.usages[f"{name}-{size}", None] = costs.coreset(
                    self.small, data, once, each, name, size
                )

    def _distill(self, data: Dataset, tiny: World, wide: World) -> dict[str, Ref]:
        found = {}
        for name, plugin in self.small.distillers.items():
            for size in self.params.general.budgets:
                if not self._is_needed(f"{name}-{size}"):
                    continue

                found[f"{name}-{size}"], usage = self._iterations(wide, name, size, plugin.config)
                others = (self.params.train_experts.num_experts - 1) * self.usages[
                    "expert", None
                ].disk_bytes
                buffer = min(others, kept_bytes(choose_device()))
                on_card = buffer if usage.gpu_bytes else 0
                self.usages[f"{name}-{size}", None] = usage.plus(host=buffer - on_card, gpu=on_card)
        return found

    def _iterations(self, wide: World, name: str, size: int, config: Any) -> tuple[Ref, Usage]:
        """Return a set and what all outer iterations take, those of a warm start measured apart."""

        def made(config: Any) -> tuple[Ref, Usage]:
            chosen = replace(self.small.distillers[name], config=config)
            params = replace(self.small, distillers={**self.small.distillers, name: chosen})
            work = steps.distillation(params, SetName(name, size))
            return wide.make(distill.distill, work, wide.inputs(wide.start), [self.expert])

        warm = getattr(config, "warm_start", None)
        own = replace(config, warm_start=None) if warm else config
        found, usage = costs.repeated(
            lambda count: made(replace(own, iterations=count)), config.iterations
        )
        if warm:
            found, both = costs.repeated(
                lambda count: made(
                    replace(config, iterations=1, warm_start=replace(warm, iterations=count))
                ),
                warm.iterations,
            )
            usage = costs.highest(usage, both).plus(seconds=both.seconds)
        return found, usage

    def _is_needed(self, name: str) -> bool:
        """Whether a set, its students or its gallery have to be made."""
        return any(name in cell.kind.split() and not cell.is_cached for cell in self.stock.cells)

    def _evaluate(self, data: Dataset, tiny: World, wide: World, distilled: dict[str, Ref]) -> None:
        # Of the distilled encoder's student: what the report shows first
        scores: dict[str, Ref] = {}
        for student in (None, *self.params.students):
            params, bases = self.small, [tiny.start, wide.start]
            if student is not None:
                params = self.small.as_student(student)
                made = [
                    world.make(train_experts.build_start, steps.start(params), world.prepared)
                    for world in (tiny, wide)
                ]
                bases = [ref for ref, _ in made]
                self.usages["start", student] = costs.start(
                    params, data, wide, bases[1], made[0][1]
                )
            scoring = costs.scoring(params, data, costs.embed_split(params, wide, bases[1]))
            for size in self.params.general.budgets:
                found = self._small(params, wide, bases[1], size, distilled, scoring)
                scores |= found if student is None else {}
            full, self.usages["student full", student] = self._full(
                params, data, tiny, wide, bases, scoring
            )
            scores.setdefault(FULL, full)
        galleries = {}
        for name, pairs in distilled.items():
            work = steps.showing(self.small, SetName.parse(name))
            given = (work, wide.prepared, wide.embeddings, pairs)
            galleries[name], self.usages[f"gallery {name}", None] = wide.make(
                evaluate.make_gallery, *given
            )
        shows = [wide.prepared, [*scores.values()], [*galleries.values()], [*distilled.values()]]
        told = steps.reporting(self.small)
        self.usages["report", None] = wide.make(report.write_report, told, *shows)[1]

    def _small(
        self,
        params: Params,
        wide: World,
        start: Ref,
        size: int,
        distilled: dict[str, Ref],
        scoring: costs.Scoring,
    ) -> dict[str, Ref]:
        """Measure students of the sets of one size: one for all sets with a similarity, one for all
        without.

        Returns:
            A score of every set, for the report.
        """
        work = steps.selection(self.small, SetName("random", size))
        given = (work, wide.inputs(wide.start), self.expert)
        real = wide.make(select_coresets.select_coreset, *given)[0]
        score, usage = costs.student(params, wide, start, real, f"random-{size}", scoring)
        scores, alike = {f"random-{size}": score}, {False: usage}
        for name in (str(one) for one in self.params.sets if one.num_pairs == size):
            is_soft = name in distilled and costs.is_soft(distilled[name])
            if is_soft not in alike:
                scores[name], alike[is_soft] = costs.student(
                    params, wide, start, distilled[name], name, scoring
                )
            elif params.student is None and name not in scores:
                scores[name] = costs.scored(
                    params, wide, start, distilled.get(name, real), name, num_epochs=1
                )[0]
            self.usages[f"student {name}", params.student] = alike[is_soft]
        return scores

    def _full(
        self,
        params: Params,
        data: Dataset,
        tiny: World,
        wide: World,
        bases: list[Ref],
        scoring: costs.Scoring,
    ) -> tuple[Ref, Usage]:
        recipe = self.params.evaluate.full
        given = (steps.evaluation(params, SetName(FULL)), tiny.inputs(bases[0]), None, 0)
        ref, once = tiny.make(evaluate.train_student, *given)
        step = costs.step(
            params,
            wide,
            batch_size=recipe.batch_size,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            start=bases[1],
        )
        seconds = step.seconds * recipe.num_epochs * data.num_images["train"] / recipe.batch_size
        return ref, costs.highest(once, step).plus(
            seconds=seconds + scoring.seconds(recipe.num_epochs, recipe.num_validations)
        )


def counts(plan: Plan, stage: str) -> tuple[int, int]:
    """Return (artifacts to be made, artifacts in all) of a stage."""
    found = Counter(entry.cell.is_cached for entry in plan.of(stage))
    return found[False], found.total()
