"""What a worker does for a sweep: it plans the cells, makes what they share, and makes a cell.

This is the side with PyTorch. A request and its answer are plain data (units.py). What is there
already, by key, is found and not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flows.distill import distilled
from flows.embed_captions import embed_captions
from flows.evaluate import Found, scored
from flows.prepare_data import prepare_data
from flows.refs import Refs
from flows.runner import flow, run
from flows.select_coresets import select_coresets
from flows.sweeps.units import PLAN
from flows.train_experts import train_experts
from tasks import evaluate, preflight
from tasks.core.foundations.file_names import SCORE
from tasks.exchange.found import imported
from tasks.reporting.cell_scores import of_cell
from tasks.settings import params, steps
from tasks.settings.params import Params
from tasks.store import caching
from tasks.store.artifacts import Ref
from tasks.tracking import cells as tracking
from tasks.tracking import system
from tasks.tracking.records import Row

Answer = dict[str, Any]


@flow("sweep-unit")
def perform(settings: Sequence[str], request: dict[str, Any]) -> Answer:
    """Do what a request asks for, and return the answer as plain data.

    Args:
        settings: those of the request; they may name the store that artifacts travel through.

    Raises:
        ValueError, OSError: what a user can mend.
    """
    return _done(request)


def _done(request: Mapping[str, Any]) -> Answer:
    kinds: dict[str, Callable[..., Answer]] = {PLAN: plan, "shared": shared, "cell": cell}
    words = {name: value for name, value in request.items() if name != "kind"}
    return kinds[request["kind"]](**words)


def plan(
    settings: Sequence[str],
    cells: Sequence[Mapping[str, Any]],
    checked: Sequence[Sequence[str]],
    forced_at: float | None,
    accept_code: bool,
) -> Answer:
    """Check every cell, and return what is to be made: {shared, cells}.

    Args:
        settings: the user's own.
        cells: requests of cells by `name`, `id` and `request`.
        checked: settings that are checked as well and are no cells.

    Returns:
        shared: units that several cells may need and that are not there, {id: {name, request,
            needs}}, in order.
        cells: {id: {needs, answer}}; the answer is None where the cell is not there as a whole.

    Raises:
        ValueError, FileNotFoundError: a cell is not valid; its name comes first.
    """
    for own in checked:
        _load([*settings, *own], "the space")
    units: dict[str, Answer] = {}
    needs = {}
    for one in cells:
        told = one["request"]["settings"]
        needs[one["id"]] = _needed(_load(told, f"the cell {one['name']}"), told, units)
    for unit in units.values():
        unit["request"]["accept_code"] = accept_code
    missing = {key: unit for key, unit in units.items() if _look(unit["request"]) is None}
    planned = {}
    for one in cells:
        left = [key for key in needs[one["id"]] if key in missing]
        answer = None if left or forced_at is not None else _look(one["request"])
        if answer is not None:
            _done(one["request"])  # a look sends nothing to the store
        planned[one["id"]] = {"needs": left, "answer": answer}
    for unit in missing.values():
        unit["needs"] = [key for key in unit["needs"] if key in missing]
    return {"shared": missing, "cells": planned}


def shared(
    stage: str, settings: Sequence[str], indices: Sequence[int], accept_code: bool
) -> Answer:
    """Make what several cells build on: the artifacts of one stage, or one expert."""
    made: Refs
    if stage == "prepare_data":
        made = prepare_data.fn(settings, accept_code=accept_code)
    elif stage == "embed_captions":
        made = embed_captions.fn(settings, accept_code=accept_code)
    else:
        made = train_experts.fn(settings, accept_code=accept_code, indices=indices)
    return {"refs": _told(made)}


def cell(
    settings: Sequence[str],
    sweep: Mapping[str, str],
    swept: Mapping[str, Any],
    below: float | None,
    forced_at: float | None,
    accept_code: bool,
) -> Answer:
    """Distil and score one setting beside random selection of its size, and log it.

    Args:
        sweep: its profile, name and the cell's own name.
        swept: what tells the cell from others.
        below: the cell is left when its first student has less validation recall than this.
        forced_at: time before which sets and scores are made again; None keeps them.

    Returns:
        scores: see `of_cell`; for a cell that was left, the recall of its first student alone.
        refs: each artifact with whether it was there.
        pages: where MLflow shows it and its sweep; none of a cell that was left.
    """
    how = {"force": forced_at is not None, "accept_code": accept_code}
    # Cells share students
    with system.watched() as samples, caching.forcing_once(forced_at):
        return _cell(settings, sweep, swept, below, how, samples)


def _cell(
    settings: Sequence[str],
    sweep: Mapping[str, str],
    swept: Mapping[str, Any],
    below: float | None,
    how: dict[str, bool],
    samples: Sequence[Row],
) -> Answer:
    chosen = params.load(settings)
    (name,) = [made for made in chosen.sets if made.method in chosen.distillers]
    refs = train_experts.fn(settings, accept_code=how["accept_code"])
    refs = select_coresets.fn(settings, **how, refs=refs)
    pairs = distilled(chosen, name, refs, {}, how)
    refs = replace(refs, distilled={str(name): pairs})
    if below is not None:
        first = run(
            evaluate.train_student, steps.evaluation(chosen, name), refs.inputs, pairs, 0, **how
        )
        recall = json.loads((first.folder / SCORE).read_text())["val_mean_recall"]
        if recall < below:
            left = replace(refs, scores=[first])
            scores = {"val": recall, "first_val": recall}
            return {"scores": scores, "is_pruned": True, "refs": _told(left)}
    cell = tracking.Cell(sweep, dict(swept), name, refs.inputs.prepared, pairs, samples)
    return _scored(chosen, cell, refs, how)


def _scored(chosen: Params, cell: tracking.Cell, refs: Refs, how: dict[str, bool]) -> Answer:
    heard: list[tuple[Found, dict[str, Ref]]] = []
    refs = scored(
        chosen, refs, how, lambda student, found, galleries: heard.append((found, galleries))
    )
    found, galleries = heard[0]  # of the student that distils; further ones follow
    name = str(cell.set_name)
    scores = of_cell(name, found, cell.distilled, [further for further, _ in heard[1:]])
    pages = tracking.log_cell(chosen, cell, found[name], galleries[name], scores)
    told = {"pages": asdict(pages), "refs": _told(refs)}
    return {"scores": scores, "is_pruned": False, **told}


def _load(settings: Sequence[str], what: str) -> Params:
    try:
        chosen = params.load(settings)
        preflight.check(chosen, "evaluate")
        imported(chosen)  # one that is missing is told before anything is made
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{what}: {error}") from error
    return chosen


def _needed(chosen: Params, settings: Sequence[str], units: dict[str, Answer]) -> list[str]:
    """Add what a cell shares with others to `units`, and return the ids that it needs."""
    work = steps.training(chosen)
    stages: list[tuple[str, Path, list[int]]] = [
        ("prepare_data", steps.preparation(chosen).folder, []),
        ("embed_captions", steps.embedding(chosen).folder, []),
        ("train_experts", steps.start(chosen).folder, []),
    ]
    stages += [
        ("train_experts", work.folder / f"expert_{index:03d}", [index]) for index in chosen.experts
    ]
    needed: list[str] = []
    for stage, folder, indices in stages:
        request = {"kind": "shared", "stage": stage, "settings": settings, "indices": indices}
        needs = needed[:3] if indices else list(needed)
        units.setdefault(str(folder), {"name": str(folder), "request": request, "needs": needs})
        needed.append(str(folder))
    return needed


def _look(request: Mapping[str, Any]) -> Answer | None:
    """Return the answer to a request when all of it is there."""
    try:
        with caching.looking():
            return _done(request)
    except caching.NotMade:
        return None


def _told(refs: Refs) -> list[tuple[str, bool]]:
    return [(ref.path, ref.is_cached) for ref in refs.all()]
