"""Which artifacts of a profile are there already: the stage tasks are asked, and make nothing
(`caching.looking`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tasks import (
    distill,
    embed_captions,
    evaluate,
    prepare_data,
    report,
    select_coresets,
    train_experts,
)
from tasks.keys import Inputs
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.settings.sets import FULL, SetName
from tasks.store import caching
from tasks.store.artifacts import Ref

SHARED = "-shared"  # ends the name of what a coreset method computes once for all sizes


@dataclass(frozen=True)
class Cell:
    """One artifact of a profile.

    Attributes:
        stage, name: for example `distill` and `lors-100`.
        kind: what it costs is that of all cells of this kind: `first expert`, `expert`, `lors-100`,
            `student lors-100`.
        student: the further student that trains, or None.
        because: why it would be made, where that is known.
    """

    stage: str
    name: str
    kind: str
    is_cached: bool
    student: str | None = None
    because: str | None = None


@dataclass
class Inventory:
    """The cells of a profile in the order of the stages, and the artifacts that later stages would
    read.
    """

    params: Params
    cells: list[Cell] = field(default_factory=list)
    prepared: Ref | None = None
    embeddings: Ref | None = None

    def is_wanted(self, kind: str, student: str | None = None) -> bool:
        """Whether some cell of a kind has to be made."""
        return any(
            cell.kind == kind and cell.student == student and not cell.is_cached
            for cell in self.cells
        )

    def ask(
        self,
        stage: str,
        name: str,
        kind: str,
        needs: Sequence[Any],
        find: Callable[[], Ref],
        *,
        student: str | None = None,
    ) -> Ref | None:
        """Return the artifact that `find()` would find, and note its cell.

        None when it would have to be made, or when one of `needs` is None: then what it is made
        from will be new.
        """
        found, because = None, None
        if None not in needs:
            try:
                with caching.looking():
                    found = find()
            except caching.NotMade as missing:
                because = missing.reason
                self._note_shared(stage, missing.folder.name)
            except FileNotFoundError:
                # Raw data or weights are not there and nothing stands in; who makes the artifact
                # says so
                found = None
        elif stage == "select_coresets":
            self._note_shared(stage, f"{SetName.parse(name).method}{SHARED}")
        self.cells.append(Cell(stage, name, kind, found is not None, student, because))
        return found

    def _note_shared(self, stage: str, name: str) -> None:
        """A coreset method may make a part for all its sizes first."""
        method = self.params.coresets.get(name.removesuffix(SHARED))
        is_noted = any(cell.name == name for cell in self.cells)
        if name.endswith(SHARED) and method and not is_noted and hasattr(method.module, "prepare"):
            self.cells.append(Cell(stage, name, name, False))


def take_stock(params: Params) -> Inventory:
    """Return every artifact that a run of the pipeline makes or finds."""
    stock = Inventory(params)
    ask = stock.ask
    stock.prepared = ask(
        "prepare_data",
        "prepared",
        "prepared",
        [],
        partial(prepare_data.prepare_data.fn, steps.preparation(params)),
    )
    # What is missing is not looked at: `ask` finds it among `needs` first
    prepared: Any = stock.prepared
    stock.embeddings = embeddings = ask(
        "embed_captions",
        "embeddings",
        "embeddings",
        [prepared],
        partial(embed_captions.embed_captions.fn, steps.embedding(params), prepared),
    )
    start = ask(
        "train_experts",
        "start",
        "start",
        [prepared],
        partial(train_experts.build_start.fn, steps.start(params), prepared),
    )
    given: list[Any] = [prepared, embeddings, start]
    inputs = Inputs(*given)
    experts = _ask_experts(stock, params, given)
    sets: dict[str, Ref | None] = {}
    distilled: dict[str, Ref | None] = {}
    for one in params.sets:
        name = str(one)
        if one.method in params.coresets:
            select = partial(select_coresets.select_coreset.fn, steps.selection(params, one))
            needs = [*given, experts[0]]
            find = partial(select, inputs, experts[0])
            sets[name] = ask("select_coresets", name, name, needs, find)
        else:
            make = partial(distill.distill.fn, steps.distillation(params, one))
            find = partial(make, inputs, experts)
            distilled[name] = ask("distill", name, name, [*given, *experts], find)
    scores = _ask_students(stock, params, given, {**sets, **distilled})
    for student in params.students:
        other = params.as_student(student)
        base = ask(
            "evaluate",
            f"{student} start",
            "start",
            [prepared],
            partial(evaluate.build_student_start.fn, steps.start(other), prepared),
            student=student,
        )
        scores += _ask_students(stock, other, [prepared, embeddings, base], {**sets, **distilled})
    galleries = []
    for name, pairs in distilled.items():
        work = steps.showing(params, SetName.parse(name))
        needs = [prepared, embeddings, pairs]
        find = partial(evaluate.make_gallery.fn, work, *needs)
        galleries.append(ask("evaluate", f"{name} gallery", f"gallery {name}", needs, find))
    last: list[Any] = [scores, galleries, list(distilled.values())]
    find = partial(report.write_report.fn, steps.reporting(params), prepared, *last)
    needs = [prepared, *(ref for refs in last for ref in refs)]
    ask("report", "report", "report", needs, find)
    return stock


def _ask_experts(stock: Inventory, params: Params, given: list[Any]) -> list[Ref | None]:
    """Ask for every expert; the first one takes longer when coresets need more epochs of it."""
    find = partial(train_experts.train_expert.fn, steps.training(params), Inputs(*given))
    return [
        stock.ask(
            "train_experts",
            f"expert_{index:03d}",
            "expert" if index else "first expert",
            given,
            partial(find, index),
        )
        for index in range(params.train_experts.num_experts)
    ]


def _ask_students(
    stock: Inventory, params: Params, given: list[Any], sets: dict[str, Ref | None]
) -> list[Ref | None]:
    found = []
    for name in (*sets, FULL):
        needs = [*given, sets[name]] if name in sets else given
        work = steps.evaluation(params, SetName.parse(name))
        find = partial(evaluate.train_student.fn, work, Inputs(*given), sets.get(name))
        for seed in range(params.evaluate.num_eval):
            cell = (
                f"{name} seed {seed}"
                if params.student is None
                else f"{name} {params.student} seed {seed}"
            )
            found.append(
                stock.ask(
                    "evaluate",
                    cell,
                    f"student {name}",
                    needs,
                    partial(find, seed),
                    student=params.student,
                )
            )
    return found
