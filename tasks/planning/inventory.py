"""Every artifact of a profile as a cell, and which of them are there: the stage tasks are asked,
and make nothing (`caching.looking`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
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
from tasks.core.evaluation.students import num_scorings
from tasks.settings.params import Params
from tasks.store import caching
from tasks.store.artifacts import Ref

COUNTED = ("iterations", "num_epochs")  # of a method that does not say what repeats its work


@dataclass(frozen=True, eq=False)
class Cell:
    """One artifact of a profile: `make(*inputs)` finds or builds it.

    Attributes:
        stage, name: for example `distill` and `lors-100`.
        kind: cells of one kind take the same.
        inputs: what `make` is given, parameters first; a cell stands for its artifact.
        split: `train`, or `all`: its images are passed over. None: work that no image adds to.
        repeats: counts in `Params` that repeat the work, by dotted name.
        scorings: of the validation and of the test split.
    """

    stage: str
    name: str
    make: Callable[..., Ref | None]
    inputs: tuple[Any, ...]
    kind: str
    split: str | None = None
    repeats: dict[str, int] = field(default_factory=dict)
    scorings: tuple[int, int] = (0, 0)

    @property
    def params(self) -> Params:
        found: Params = self.inputs[0]
        return found


@dataclass(frozen=True)
class Usage:
    """What a piece of work takes: seconds, bytes resident at its peak, bytes on the card at its
    peak, bytes on disk.
    """

    seconds: float = 0.0
    host_bytes: int = 0
    gpu_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Entry:
    """A cell with its artifact, or with why it would be made, where that is known.

    Attributes:
        usage: what making it will take; nothing when it is there.
    """

    cell: Cell
    ref: Ref | None
    because: str | None = None
    usage: Usage = Usage()


def look(cells: list[Cell]) -> list[Entry]:
    """Return which artifacts are there."""
    entries: dict[Cell, Entry] = {}

    def there(cell: Cell) -> Ref:
        ref = entries[cell].ref
        if ref is None:
            raise FileNotFoundError(f"{cell.name} is not there")
        return ref

    for cell in cells:
        ref, because = None, None
        try:
            with caching.looking():
                ref = cell.make(*standing(cell.inputs, there))
        except caching.NotMade as missing:
            because = missing.reason
        except FileNotFoundError:
            # So are raw data or weights that are missing; who makes the artifact says so
            because = None
        entries[cell] = Entry(cell, ref, because)
    return [*entries.values()]


def standing(inputs: Iterable[Any], artifact: Callable[[Cell], Ref]) -> list[Any]:
    """Return inputs with artifacts in place of cells, also inside lists."""
    found: list[Any] = []
    for value in inputs:
        if isinstance(value, list):
            found.append(standing(value, artifact))
        else:
            found.append(artifact(value) if isinstance(value, Cell) else value)
    return found


def cells_of(params: Params) -> list[Cell]:
    """Return every artifact that a run of the pipeline makes or finds, inputs first."""
    cells: list[Cell] = []

    def add(stage: str, name: str, task: Any, *inputs: Any, kind: str = "", **more: Any) -> Cell:
        make = getattr(task, "fn", task)
        cells.append(Cell(stage, name, make, inputs, kind or name, **more))
        return cells[-1]

    task = embed_captions.embed_captions
    prepared = add("prepare_data", "prepared", prepare_data.prepare_data, params, split="all")
    embeddings = add("embed_captions", "embeddings", task, params, prepared, split="all")
    start = add("train_experts", "start", train_experts.build_start, params, prepared, split="all")
    given = (params, prepared, embeddings, start)
    experts = _add_experts(add, given)
    sets, distilled = _add_coresets(add, given, experts[0]), {}
    for method, plugin in params.distillers.items():
        repeats = _repeats(f"distillers.{method}", plugin.config)
        for size in params.general.budgets:
            name, more = f"{method}-{size}", (experts, method, size)
            distilled[name] = add("distill", name, distill.distill, *given, *more, repeats=repeats)
    scores = _add_students(add, given, {**sets, **distilled})
    for student in params.students:
        other, task = params.as_student(student), evaluate.build_student_start
        base = add("evaluate", f"{student} start", task, other, prepared, split="all")
        scores += _add_students(add, (other, prepared, embeddings, base), {**sets, **distilled})
    galleries = [
        add("evaluate", f"{name} gallery", evaluate.make_gallery, *given[:3], pairs, name)
        for name, pairs in distilled.items()
    ]
    add("report", "report", report.write_report, params, scores, galleries, [*distilled.values()])
    return cells


Add = Callable[..., Cell]


def _add_experts(add: Add, given: tuple[Any, ...]) -> list[Cell]:
    """Add every expert; the first one takes longer when coresets need more epochs of it."""
    section, experts = given[0].train_experts, []
    for index in range(section.num_experts):
        name, task = f"expert_{index:03d}", train_experts.train_expert
        repeats = {"train_experts.num_epochs": section.stored_epochs(index)[-1]}
        how = {"kind": "expert", "split": "train", "repeats": repeats}
        experts.append(add("train_experts", name, task, *given, index, **how))
    return experts


def _add_coresets(add: Add, given: tuple[Any, ...], warm: Cell) -> dict[str, Cell]:
    """Add the part that a method makes for all sizes, where it has one, and a coreset a size."""
    params, found, stage = given[0], {}, "select_coresets"
    task = select_coresets.select_coreset
    for method, plugin in params.coresets.items():
        if hasattr(plugin.module, "prepare"):
            how = {"split": "train", "repeats": _repeats(f"coresets.{method}", plugin.config)}
            add(stage, f"{method}-shared", select_coresets.make_shared, *given, method, **how)
        for size in params.general.budgets:
            name = f"{method}-{size}"
            found[name] = add(stage, name, task, *given, warm, method, size, split="train")
    return found


def _add_students(add: Add, given: tuple[Any, ...], sets: dict[str, Cell]) -> list[Cell]:
    """Add every student; those of coresets of one size take the same."""
    params, scores = given[0], []
    section, label = params.evaluate, [params.student] if params.student else []
    for name, pairs in {**sets, evaluate.FULL: None}.items():
        recipe, place = (section.small, "small") if pairs else (section.full, "full")
        is_real = pairs is not None and pairs.stage == "select_coresets"
        work = f"{name.rpartition('-')[2]} real pairs" if is_real else name
        how = {
            "kind": " ".join(["student", *label, work]),
            "split": None if pairs else "train",
            "repeats": {f"evaluate.{place}.num_epochs": recipe.num_epochs},
            "scorings": num_scorings(recipe, section.protocol),
        }
        for seed in range(section.num_eval):
            cell = " ".join([name, *label, f"seed {seed}"])
            scores.append(
                add("evaluate", cell, evaluate.train_student, *given, pairs, name, seed, **how)
            )
    return scores


def _repeats(place: str, config: Any) -> dict[str, int]:
    """Return the counts that repeat the work of a method: its `repeats`, or else options with a
    usual name. A method with neither is measured as it is.
    """
    usual = [option.name for option in fields(config) if option.name in COUNTED]
    return {
        f"{place}.config.{name}": functools.reduce(getattr, name.split("."), config)
        for name in getattr(config, "repeats", usual)
    }
