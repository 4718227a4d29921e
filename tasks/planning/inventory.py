"""Which artifacts of a profile are there already: the stage tasks are asked, and make nothing
(`caching.looking`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from tasks.settings.params import Params
from tasks.store import caching
from tasks.store.artifacts import Ref


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
        task: Any,
        needs: Sequence[Any],
        *more: Any,
        student: str | None = None,
    ) -> Ref | None:
        """Return the artifact that `task(*needs, *more)` would find, and note its cell.

        None when it would have to be made, or when one of `needs` is None: then what it is made
        from will be new.
        """
        found, because = None, None
        if None not in needs:
            try:
                with caching.looking():
                    found = task.fn(*needs, *more)
            except caching.NotMade as missing:
                because = missing.reason
                self._note_shared(stage, missing.folder.name)
            except FileNotFoundError:
                # Raw data or weights are not there and nothing stands in; who makes the artifact
                # says so
                found = None
        elif stage == "select_coresets":
            self._note_shared(stage, f"{name.rpartition('-')[0]}-shared")
        self.cells.append(Cell(stage, name, kind, found is not None, student, because))
        return found

    def _note_shared(self, stage: str, name: str) -> None:
        """A coreset method may make a part for all its sizes first."""
        method, _, rest = name.rpartition("-")
        is_noted = any(cell.name == name for cell in self.cells)
        if (
            rest == "shared"
            and not is_noted
            and hasattr(self.params.coresets[method].module, "prepare")
        ):
            self.cells.append(Cell(stage, name, name, False))


def take_stock(params: Params) -> Inventory:
    """Return every artifact that a run of the pipeline makes or finds."""
    stock = Inventory(params)
    ask = stock.ask
    prepared = stock.prepared = ask(
        "prepare_data", "prepared", "prepared", prepare_data.prepare_data, [params]
    )
    given: list[Any] = [params, prepared]
    embeddings = stock.embeddings = ask(
        "embed_captions", "embeddings", "embeddings", embed_captions.embed_captions, given
    )
    start = ask("train_experts", "start", "start", train_experts.build_start, given)
    given += [embeddings, start]
    experts = _ask_experts(stock, params, given)
    grid = [(method, size) for method in params.coresets for size in params.general.budgets]
    sets = {
        f"{method}-{size}": ask(
            "select_coresets",
            f"{method}-{size}",
            f"{method}-{size}",
            select_coresets.select_coreset,
            [*given, experts[0]],
            method,
            size,
        )
        for method, size in grid
    }
    buffer = None if None in experts else experts
    grid = [(method, size) for method in params.distillers for size in params.general.budgets]
    distilled = {
        f"{method}-{size}": ask(
            "distill",
            f"{method}-{size}",
            f"{method}-{size}",
            distill.distill,
            [*given, buffer],
            method,
            size,
        )
        for method, size in grid
    }
    scores = _ask_students(stock, params, given, {**sets, **distilled})
    for student in params.students:
        other = params.as_student(student)
        base = ask(
            "evaluate",
            f"{student} start",
            "start",
            evaluate.build_student_start,
            [other, prepared],
            student=student,
        )
        scores += _ask_students(
            stock, other, [other, prepared, embeddings, base], {**sets, **distilled}
        )
    galleries = [
        ask(
            "evaluate",
            f"{name} gallery",
            f"gallery {name}",
            evaluate.make_gallery,
            [params, prepared, embeddings, pairs],
            name,
        )
        for name, pairs in distilled.items()
    ]
    last = [
        params,
        *(None if None in refs else refs for refs in (scores, galleries, [*distilled.values()])),
    ]
    ask("report", "report", "report", report.write_report, last)
    return stock


def _ask_experts(stock: Inventory, params: Params, given: list[Any]) -> list[Ref | None]:
    """Ask for every expert; the first one takes longer when coresets need more epochs of it."""
    return [
        stock.ask(
            "train_experts",
            f"expert_{index:03d}",
            "expert" if index else "first expert",
            train_experts.train_expert,
            given,
            index,
        )
        for index in range(params.train_experts.num_experts)
    ]


def _ask_students(
    stock: Inventory, params: Params, given: list[Any], sets: dict[str, Ref | None]
) -> list[Ref | None]:
    found, task = [], evaluate.train_student
    for name in (*sets, evaluate.FULL):
        needs, more = ([*given, sets[name]], ()) if name in sets else (given, (None,))
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
                    task,
                    needs,
                    *more,
                    name,
                    seed,
                    student=params.student,
                )
            )
    return found
