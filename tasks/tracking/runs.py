"""What MLflow is told: a distilled set when it is made, and every set of a pipeline once its
students are scored.

Each is logged once, whoever made it: a run that was logged to its end carries the digest of what it
shows as a tag, set last. A process that died before that logs nothing by halves for good: the next
one finds no tag and logs again. Where all is logged, MLflow is not imported. At most 40 metric keys
a run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from tasks.core.evaluation import metrics
from tasks.core.evaluation.statistics import describe, mean
from tasks.core.foundations.file_names import CURVE, GALLERY, HISTORY, SCORE, SHEET
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.store import artifacts, caching, manifests
from tasks.store.artifacts import Ref
from tasks.tracking import client as tracking

DISTILLED, SCORES, STUDENTS = "distilled_digest", "scores_digest", "students_digest"
MEAN = "test/mean_recall"


def log_distilled(params: Params, invocation: str, prepared: Ref, distilled: Ref) -> None:
    """Log losses and step sizes over the iterations of a set, unless MLflow has them."""

    def log(tracker: tracking.Tracker, parent: str) -> None:
        name = SetName.parse(distilled.folder.name)
        child = _child(tracker, parent, params, distilled, name)
        _log_history(tracker, child, distilled)
        tracker.finish(child)

    _once(params, invocation, prepared, DISTILLED, distilled.digest, log)


def log_scores(
    params: Params,
    invocation: str,
    prepared: Ref,
    students: dict[str, list[Ref]],
    distilled: dict[str, Ref],
    galleries: dict[str, Ref],
) -> None:
    """Log a nested run per set: mean and standard deviation over students, validation curves,
    galleries and histories.

    All sets go under one parent, so that they compare, unless MLflow has a parent with exactly
    these scores.

    Args:
        students: scores by set name (`<method>-<num_pairs>`, `full`), all of the student that
            `params` is of.
        galleries: by set name; empty for a further student, whose runs hold its scores alone.
    """
    cell = params.variant.cell if params.variant else None
    tag = ".".join(filter(None, (SCORES, cell, params.student)))
    sets = {name: _digests(refs) for name, refs in students.items()}
    shown = [_digests(refs.values()) for refs in (distilled, galleries)]
    digest = artifacts.canonical_digest({"students": sets, "sets": shown})

    def log(tracker: tracking.Tracker, parent: str) -> None:
        summary = {}
        # The parent is marked last: a process that dies before leaves a run that is logged again
        for name, refs in students.items():
            made, gallery = distilled.get(name), galleries.get(name)
            values = _statistics(refs)
            child = _child(tracker, parent, params, made or refs[0], SetName.parse(name))
            _log_set(tracker, child, params, prepared, refs, values, made, gallery)
            if made or not cell:  # a preset has many cells, which share the other sets
                place = "/".join(filter(None, ("test_mean_recall", cell, name)))
                summary[place] = values[MEAN]
        if params.student is None:
            tracker.log_history(parent, [(0, summary)])
        tracker.mark(parent, tag, digest)

    _once(params, invocation, prepared, tag, digest, log)


def _once(
    params: Params,
    invocation: str,
    prepared: Ref,
    tag: str,
    digest: str,
    log: Callable[[tracking.Tracker, str], None],
) -> None:
    """Call `log` with the parent run, unless MLflow has a run with this tag; `log` sets it last."""
    dataset = params.report.dataset
    if tracking.is_remembered(dataset, tag, digest):
        return
    tracker = _tracker(dataset, invocation)
    if not tracker.has(tag, digest):
        parent = _parent(tracker, params, prepared)
        log(tracker, parent)
        tracker.finish(parent)
    tracking.remember(dataset, tag, digest)


def _log_set(
    tracker: tracking.Tracker,
    child: str,
    params: Params,
    prepared: Ref,
    refs: list[Ref],
    values: dict[str, float],
    made: Ref | None,
    gallery: Ref | None,
) -> None:
    shown = artifacts.canonical_digest(_digests(refs))
    # Full data and coresets of an earlier cell of the same run
    if tracker.is_marked(child, STUDENTS, shown):
        return
    tracker.log_inputs(child, params.report.dataset, prepared.digest, prepared.path)
    if made:
        tracker.log_inputs(child, made.folder.name, made.digest, made.path)
    if made and gallery:
        _log_history(tracker, child, made)
        for file in (SHEET, GALLERY):
            tracker.log_file(child, gallery.folder / file)
    tracker.log_history(child, [(0, values), *_curve(refs)])
    artifacts.confirm(filter(None, (*refs, gallery)))
    tracker.mark(child, STUDENTS, shown)
    tracker.finish(child)


def _digests(refs: Iterable[Ref]) -> list[str]:
    return [ref.digest for ref in refs]


@functools.cache
def _tracker(dataset: str, invocation: str) -> tracking.Tracker:
    return tracking.Tracker(dataset, invocation)


def _parent(tracker: tracking.Tracker, params: Params, prepared: Ref) -> str:
    """Return the run of this invocation, with all parameters, or with the name of the preset."""
    git = caching.git_state()
    tags = {
        "profile": params.profile,
        "git_commit": str(git["commit"]),
        "git_is_dirty": str(git["is_dirty"]).lower(),
        "parameters_hash": params.digest,
        "prepared_digest": prepared.digest,
    }
    if params.variant is None:
        return tracker.parent(tracking.flatten(asdict(params)), tags)
    named = {"preset": params.variant.preset}
    return tracker.parent(named, tags | named)


def _child(tracker: tracking.Tracker, parent: str, params: Params, made: Ref, name: SetName) -> str:
    """Return the nested run of a set, with the parameters that made it and nothing else, so that
    two compare well.

    Args:
        made: the artifact whose commit the run names: it may be older than this process.
    """
    plugin = params.distillers.get(name.method) or params.coresets.get(name.method)
    git = manifests.read(made.folder, "git").facts["git"]
    tags = {
        "method": name.method,
        "profile": params.profile,
        "student": params.model_name,
        "git_commit": str(git["commit"]),
        "protocol": params.evaluate.protocol,
    }
    told = {
        "method": name.method,
        "num_pairs": name.num_pairs or "all",
        "model": params.model_name,
        "seed": params.seed,
    }
    words = [str(name), params.student]
    if params.variant:
        words.insert(0, params.variant.cell)
        tags |= {"preset": params.variant.preset, "variant": params.variant.cell}
        told |= tracking.flatten(params.variant.settings, "cell.")
    # Full data has no method, and a recipe of its own
    recipe = params.evaluate.small if name.num_pairs else params.evaluate.full
    if plugin:
        told |= tracking.flatten(plugin.as_params()["options"], "options.")
    child = tracker.child(parent, " ".join(filter(None, words)), tags)
    tracker.log_params(child, {**told, **tracking.flatten(asdict(recipe), "recipe.")})
    return child


def _log_history(tracker: tracking.Tracker, child: str, distilled: Ref) -> None:
    """Log a distillation's history once per nested run."""
    import pandas as pd

    if tracker.is_marked(child, DISTILLED, distilled.digest):
        return
    history = pd.read_parquet(distilled.folder / HISTORY).set_index("iteration")
    tracker.log_history(child, _by_step(history.add_prefix("distill/")))
    artifacts.confirm([distilled])
    tracker.mark(child, DISTILLED, distilled.digest)


def _statistics(refs: list[Ref]) -> dict[str, float]:
    """Mean and standard deviation over students of what `score.json` holds.

    One student has no deviation: its key is left out.
    """
    import pandas as pd

    scores = pd.DataFrame([json.loads((ref.folder / SCORE).read_text()) for ref in refs])
    values = {"evaluate/chosen_epoch": mean(scores["chosen_epoch"])}
    for key in metrics.NAMES:
        found = describe(scores[key])
        values[f"test/{key}"] = found.mean
        if found.deviation is not None:
            values[f"test/{key}_std"] = found.deviation
    return values


def _curve(refs: list[Ref]) -> list[tuple[int, dict[str, float]]]:
    """Validation recall and training loss by epoch, mean over students."""
    import pandas as pd

    frame = pd.concat([pd.read_parquet(ref.folder / CURVE) for ref in refs])
    names = {"val_mean_recall": "val/mean_recall", "loss": "train/loss"}
    return _by_step(frame.groupby("epoch")[list(names)].agg(mean).rename(columns=names))


def _by_step(frame: Any) -> list[tuple[int, dict[str, float]]]:
    """Return the rows of a frame whose index is the step."""
    rows = frame.astype(float).to_dict("index")
    return [(int(step), values) for step, values in rows.items()]
