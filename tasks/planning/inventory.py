"""Every artifact of a profile as a cell, and which of them are there.

To know that, the stage tasks are called inside `caching.looking()`, where they make nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields, is_dataclass, replace
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
from tasks.exchange.asked import FITTED
from tasks.exchange.found import imported, without_words
from tasks.keys import Inputs
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.settings.sets import EQUAL_BYTES, FULL, SetName
from tasks.settings.validation import Plugin
from tasks.store import caching
from tasks.store.artifacts import Ref

COUNTED = ("iterations", "num_epochs")  # of a method that does not say what repeats its work


@dataclass(frozen=True, eq=False)
class Cell:
    """One artifact of a profile: `make(work, *inputs)` finds or builds it.

    Attributes:
        stage, name: for example `distill` and `lors-100`.
        kind: cells of one kind take the same time and memory.
        make: the function of the task.
        work: what the task is told, a record of `settings/steps.py`.
        inputs: what it reads; a cell stands for its artifact.
        split: the images that the work passes over: `train`, or `all` splits. None for work that
            does not grow with the images.
        repeats: counts that repeat the work, {dotted name in `work`: count}.
        scorings: how often the validation and the test split are scored.
    """

    stage: str
    name: str
    kind: str
    make: Callable[..., Ref]
    work: Any
    inputs: tuple[Any, ...]
    split: str | None = None
    repeats: dict[str, int] = field(default_factory=dict)
    scorings: tuple[int, int] = (0, 0)

    @property
    def student(self) -> str | None:
        """The further student that it belongs to; None for the main one."""
        network = getattr(self.work, "network", None)
        return network.name if network and network.is_further else None


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
                # What reads a missing artifact cannot be looked up itself: `there` raises
                ref = cell.make(cell.work, *standing(cell.inputs, there))
        except caching.NotMade as missing:
            because = missing.reason
        except FileNotFoundError:
            # An input is missing, or raw data or weights are; making the artifact says which
            because = None
        entries[cell] = Entry(cell, ref, because)
    return [*entries.values()]


def digests(entries: list[Entry]) -> dict[str, str]:
    """Return the digests of the artifacts that imported sets have to fit, of those that are
    there.
    """
    return {
        entry.cell.name: entry.ref.digest
        for entry in entries
        if entry.ref and entry.cell.name in FITTED
    }


def standing(inputs: Any, artifact: Callable[[Cell], Ref]) -> Any:
    """Return inputs with artifacts in place of cells."""
    return rewritten(inputs, lambda _, value: artifact(value) if isinstance(value, Cell) else value)


def rewritten(tree: Any, rule: Callable[[str, Any], Any], place: str = "") -> Any:
    """Return records with `rule(name, value)` in place of each value; names are like
    `section.small.num_epochs`.
    """
    if isinstance(tree, list | tuple):
        return type(tree)(rewritten(value, rule, place) for value in tree)
    is_dict = isinstance(tree, dict)
    if isinstance(tree, Cell) or not (is_dict or is_dataclass(tree)):
        return rule(place.removeprefix("."), tree)
    named = (tree if is_dict else vars(tree)).items()
    inner = {name: rewritten(value, rule, f"{place}.{name}") for name, value in named}
    return inner if is_dict else replace(tree, **inner)


def cells_of(params: Params) -> list[Cell]:
    """Return every artifact that a run of the pipeline makes or finds, inputs first."""
    cells: list[Cell] = []

    def add(name: str, task: Any, work: Any, *inputs: Any, kind: str = "", **how: Any) -> Cell:
        # A plain function or a `Step`; it is defined in the file that has the name of its stage
        make = getattr(task, "fn", task)
        stage = make.__module__.rpartition(".")[2]
        cells.append(Cell(stage, name, kind or name, make, work, inputs, **how))
        return cells[-1]

    prepare, embed = prepare_data.prepare_data, embed_captions.embed_captions
    prepared: Any = add("prepared", prepare, steps.preparation(params), split="all")
    embeddings: Any = add("embeddings", embed, steps.embedding(params), prepared, split="all")

    def started(name: str, build: Any, params: Params) -> Inputs:
        start: Any = add(name, build, steps.start(params), prepared, split="all")
        return Inputs(prepared, embeddings, start)

    inputs = started("start", train_experts.build_start, params)
    found, others = imported(params), dict[SetName, Ref]()
    # Imported sets are there already. Their absolute path holds in the folder of a measurement too
    for told, ref in found.items():
        others[SetName.parse(told)] = replace(ref, path=str(ref.folder.resolve()))
    experts = _add_experts(add, params, inputs)
    sets = {**_add_sets(add, params, inputs, experts, others), **others}
    vectors = [SetName.parse(told) for told in without_words(found)]
    vectors += [name for name in sets if name.method in params.distillers]
    scores = _add_students(add, params, inputs, sets, vectors)
    for student in params.students:
        other = params.as_student(student)
        base = started(f"{student} start", evaluate.build_student_start, other)
        scores += _add_students(add, other, base, sets, vectors)
    make, galleries = evaluate.make_gallery, []
    distilled = {name: cell for name, cell in sets.items() if name.method in params.distillers}
    for name, pairs in distilled.items():
        given = (steps.showing(params, name), prepared, embeddings, pairs)
        galleries.append(add(f"{name} gallery", make, *given))
    shown = (prepared, scores, galleries, [*distilled.values()], [*cells])
    add("report", report.write_report, steps.reporting(params), *shown)
    return cells


Add = Callable[..., Cell]


def _add_experts(add: Add, params: Params, inputs: Inputs) -> list[Cell]:
    """Add every expert. The first one takes longer where coresets need more epochs of it."""
    work, experts = steps.training(params), []
    for index in params.experts:
        repeats = {"section.num_epochs": work.section.stored_epochs(index)[-1]}
        how = {"kind": "expert", "split": "train", "repeats": repeats}
        name = f"expert_{index:03d}"
        experts.append(add(name, train_experts.train_expert, work, inputs, index, **how))
    return experts


def _add_sets(
    add: Add,
    params: Params,
    inputs: Inputs,
    experts: list[Cell],
    others: dict[SetName, Ref],
) -> dict[SetName, Cell | Ref]:
    """Add every small set, and before a coreset what its method makes for all sizes.

    Args:
        others: the imported sets, which distilled ones may begin with.
    """
    found: dict[SetName, Cell | Ref] = {}
    distilled: dict[SetName, Cell | Ref] = {**others}

    def made(name: SetName) -> Cell | Ref:
        if name not in distilled:
            told = steps.distillation(params, name)
            earlier = made(told.begins_with) if told.begins_with else None
            given, repeats = (told.read(experts), earlier), _repeats(told.method)
            distilled[name] = add(str(name), distill.distill, told, inputs, *given, repeats=repeats)
        return distilled[name]

    for name in params.sets:
        if name.method in params.distillers:
            found[name] = made(name)
            continue
        plugin, work = params.coresets[name.method], steps.selection(params, name)
        # Once a method: with the first size, before its coreset
        if hasattr(plugin.module, "prepare") and name.num_pairs == params.general.budgets[0]:
            how = {"split": "train", "repeats": _repeats(plugin)}
            add(f"{name.method}-shared", select_coresets.make_shared, work, inputs, **how)
        select = select_coresets.select_coreset
        found[name] = add(str(name), select, work, inputs, experts[0], split="train")
    return found


def _add_students(
    add: Add,
    params: Params,
    inputs: Inputs,
    sets: dict[SetName, Cell | Ref],
    vectors: Collection[SetName],
) -> list[Cell]:
    """Add every student. Students of coresets of one size take the same, so they are one kind.

    Args:
        vectors: the sets with texts that are no sentences.
    """
    section, student, scores = params.evaluate, params.student or "", []
    scored: dict[SetName, Cell | Ref | None] = {**sets}
    for name in [*vectors, *(name for name in sets if name.is_random)]:
        for further in params.again(name):
            scored[further] = sets[name]
    scored[SetName(FULL)] = None
    for name, pairs in scored.items():
        work = steps.evaluation(params, name)
        recipe, place = (section.small, "small") if pairs else (section.full, "full")
        # `random_equal_bytes` takes as many pairs as fit the bytes, not as many as its name says
        is_alike = name.method in params.coresets and name.method != EQUAL_BYTES and not name.ending
        how = {
            "kind": f"student {student} {name.num_pairs if is_alike else name}",
            "split": None if pairs else "train",
            "repeats": {f"section.{place}.num_epochs": recipe.num_epochs},
            "scorings": num_scorings(recipe, section.protocol),
        }
        for seed in range(section.num_eval):
            cell = " ".join([str(name), *student.split(), f"seed {seed}"])
            scores.append(add(cell, evaluate.train_student, work, inputs, pairs, seed, **how))
    for name in params.ceilings:
        images = sets[replace(name, ending="")] if name.is_random else None
        work = steps.evaluation(params, name)
        how = {"kind": f"ceiling {student}", "split": "all"}
        cell = " ".join([str(name), *student.split()])
        scores.append(add(cell, evaluate.score_ceiling, work, inputs, images, **how))
    return scores


def _repeats(plugin: Plugin) -> dict[str, int]:
    """Return the counts that repeat the work of a method: its `repeats`, or else options with a
    usual name. A method with neither is measured as it is.
    """
    config = plugin.config
    usual = [option.name for option in fields(config) if option.name in COUNTED]
    return {
        f"method.config.{name}": functools.reduce(getattr, name.split("."), config)
        for name in getattr(config, "repeats", usual)
    }
