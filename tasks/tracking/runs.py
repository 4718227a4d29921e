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
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tasks.core.evaluation import metrics
from tasks.core.evaluation.statistics import describe, mean
from tasks.core.foundations.file_names import CURVE, GALLERY, HISTORY, SCORE, SHEET
from tasks.settings.params import Params
from tasks.store import artifacts, caching, manifests
from tasks.store.artifacts import Ref
from tasks.tracking import client as tracking

DISTILLED, SCORES, STUDENTS = "distilled_digest", "scores_digest", "students_digest"


def log_distilled(params: Params, invocation: str, prepared: Ref, distilled: Ref) -> None:
    """Log losses and step sizes over the iterations of a set, unless MLflow has them."""

    def log(tracker: tracking.Tracker, parent: str) -> None:
        child = _child(tracker, parent, params, distilled)
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
    tag = ".".join(filter(None, (SCORES, _cell(params), params.student)))
    digest = _digest(students, distilled, galleries)

    def log(tracker: tracking.Tracker, parent: str) -> None:
        _log_sets(tracker, parent, params, prepared, students, distilled, galleries)
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
    if tracking.is_remembered(params.profile, tag, digest):
        return
    if not _tracker(params.profile, invocation).has(tag, digest):
        tracker, parent = _open(params, invocation, prepared)
        log(tracker, parent)
        tracker.finish(parent)
    tracking.remember(params.profile, tag, digest)


def _log_sets(
    tracker: tracking.Tracker,
    parent: str,
    params: Params,
    prepared: Ref,
    students: dict[str, list[Ref]],
    distilled: dict[str, Ref],
    galleries: dict[str, Ref],
) -> None:
    summary: dict[str, float] = {}
    for name, refs in students.items():
        child = _child(tracker, parent, params, distilled.get(name, refs[0]), name)
        values, shown = _statistics(refs), artifacts.canonical_digest([ref.digest for ref in refs])
        if params.variant is None or name in distilled:  # a preset has many cells
            summary["/".join(filter(None, ("test_mean_recall", _cell(params), name)))] = values[
                "test/mean_recall"
            ]
        # Full data and coresets of an earlier cell of the same run
        if tracker.is_marked(child, STUDENTS, shown):
            continue
        tracker.log_inputs(child, params.profile, prepared.digest, prepared.path)
        if name in distilled:
            tracker.log_inputs(child, name, distilled[name].digest, distilled[name].path)
        if name in galleries:
            _log_history(tracker, child, distilled[name])
            for file in (SHEET, GALLERY):
                tracker.log_file(child, galleries[name].folder / file)
        tracker.log_history(child, [(0, values), *_curve(refs)])
        artifacts.confirm(filter(None, (*refs, galleries.get(name))))
        tracker.mark(child, STUDENTS, shown)
        tracker.finish(child)
    if params.student is None:
        tracker.log_history(parent, [(0, summary)])


def _digest(
    students: dict[str, list[Ref]], distilled: dict[str, Ref], galleries: dict[str, Ref]
) -> str:
    """What the runs of a pipeline show, as one digest."""
    parts = {name: [ref.digest for ref in refs] for name, refs in students.items()}
    sets = [{name: ref.digest for name, ref in refs.items()} for refs in (distilled, galleries)]
    return artifacts.canonical_digest({"students": parts, "sets": sets})


@functools.cache
def _tracker(profile: str, invocation: str) -> tracking.Tracker:
    return tracking.Tracker(profile, invocation)


def _open(params: Params, invocation: str, prepared: Ref) -> tuple[tracking.Tracker, str]:
    tracker, git = _tracker(params.profile, invocation), caching.git_state()
    tags = {
        "profile": params.profile,
        "git_commit": str(git["commit"]),
        "git_is_dirty": str(git["is_dirty"]).lower(),
        "parameters_hash": params.digest,
        "prepared_digest": prepared.digest,
    }
    if params.variant:
        return tracker, tracker.parent(
            {"preset": params.variant.preset}, {**tags, "preset": params.variant.preset}
        )
    return tracker, tracker.parent(tracking.flatten(asdict(params)), tags)


def _cell(params: Params) -> str | None:
    """Return the name of the cell of a preset that the parameters are of."""
    return params.variant.cell if params.variant else None


def _child(
    tracker: tracking.Tracker, parent: str, params: Params, made: Ref, name: str | None = None
) -> str:
    """Return the nested run of a set, with the parameters that made it and nothing else, so that
    two compare well.

    Args:
        made: the artifact whose commit the run names: it may be older than this process.
        name: of the set, by default that of the artifact's folder.
    """
    name = name or made.folder.name
    method, _, size = name.rpartition("-")
    plugin = params.distillers.get(method) or params.coresets.get(method)
    git = manifests.read(made.folder, "git").facts["git"]
    tags = {
        "method": method or name,
        "profile": params.profile,
        "student": params.model_name,
        "git_commit": str(git["commit"]),
        "protocol": params.evaluate.protocol,
    }
    if params.variant:
        tags |= {"preset": params.variant.preset, "variant": params.variant.cell}
    child = tracker.child(
        parent, " ".join(filter(None, (_cell(params), name, params.student))), tags
    )
    recipe = params.evaluate.small if plugin else params.evaluate.full
    known = {
        "method": method or name,
        "num_pairs": size if plugin else "all",
        "model": params.model_name,
        "seed": params.seed,
    }
    known |= {
        f"cell.{path}": value
        for path, value in (params.variant.settings if params.variant else {}).items()
    }
    options = plugin.as_params()["options"] if plugin else {}
    tracker.log_params(
        child,
        {
            **known,
            **tracking.flatten(options, "options."),
            **tracking.flatten(asdict(recipe), "recipe."),
        },
    )
    return child


def _log_history(tracker: tracking.Tracker, child: str, distilled: Ref) -> None:
    """Log a distillation's history once per nested run."""
    import pandas as pd

    if tracker.is_marked(child, DISTILLED, distilled.digest):
        return
    history = pd.read_parquet(distilled.folder / HISTORY).to_dict("records")
    rows = [
        (int(row.pop("iteration")), {f"distill/{key}": float(value) for key, value in row.items()})
        for row in history
    ]
    tracker.log_history(child, rows)
    artifacts.confirm([distilled])
    tracker.mark(child, DISTILLED, distilled.digest)


def _statistics(refs: list[Ref]) -> dict[str, float]:
    """Mean and standard deviation over students of what `score.json` holds.

    One student has no deviation: its key is left out.
    """
    scores = [json.loads((ref.folder / SCORE).read_text()) for ref in refs]
    found = {key: describe(score[key] for score in scores) for key in metrics.NAMES}
    means = {f"test/{key}": one.mean for key, one in found.items()}
    spreads = {
        f"test/{key}_std": one.deviation for key, one in found.items() if one.deviation is not None
    }
    chosen = mean(score["chosen_epoch"] for score in scores)
    return {**means, **spreads, "evaluate/chosen_epoch": chosen}


def _curve(refs: list[Ref]) -> list[tuple[int, dict[str, float]]]:
    """Validation recall and training loss by epoch, mean over students."""
    import pandas as pd

    frame = pd.concat([pd.read_parquet(ref.folder / CURVE) for ref in refs])
    averaged = frame.groupby("epoch")[["val_mean_recall", "loss"]].agg(mean)
    columns: list[Any] = averaged.reset_index().to_dict("records")
    return [
        (int(row["epoch"]), {"val/mean_recall": row["val_mean_recall"], "train/loss": row["loss"]})
        for row in columns
    ]
