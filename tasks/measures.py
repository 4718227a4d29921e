"""What MLflow is told: a distilled set when it is made, and every set of a pipeline once its students are scored.

Nothing is logged, and MLflow is not imported, when nothing new was computed. At most 40 metric keys a run.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from typing import Any

from tasks import caching, tracking
from tasks.artifacts import Ref
from tasks.params import Params

SCORED = ("mean_recall", "i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")


def log_distilled(params: Params, invocation: str, prepared: Ref, distilled: Ref) -> None:
    """Log losses and step sizes over the iterations of a set that was just made."""
    if distilled.is_cached:
        return
    tracker, parent = _open(params, invocation, prepared)
    child = _child(tracker, parent, params, distilled.folder.name)
    _log_history(tracker, child, distilled)
    tracker.finish(parent)


def log_scores(
    params: Params,
    invocation: str,
    prepared: Ref,
    students: dict[str, list[Ref]],
    distilled: dict[str, Ref],
    galleries: dict[str, Ref],
) -> None:
    """Log a nested run per set: mean and standard deviation over students, validation curves, galleries and histories.

    Args:
        students: scores by set name (`<method>-<num_pairs>`, `full`).
    """
    if all(ref.is_cached for refs in students.values() for ref in refs):
        return
    tracker, parent = _open(params, invocation, prepared)
    summary: dict[str, float] = {}
    for name, refs in students.items():
        child = _child(tracker, parent, params, name)
        tracker.log_inputs(child, params.profile, prepared.digest, prepared.path)
        if name in distilled:
            tracker.log_inputs(child, name, distilled[name].digest, distilled[name].path)
            _log_history(tracker, child, distilled[name])
            for file in ("gallery.png", "gallery.json"):
                tracker.log_file(child, galleries[name].folder / file)
        values = _statistics(refs)
        summary[f"test_mean_recall/{name}"] = values["test/mean_recall"]
        tracker.log_history(child, [(0, values), *_curve(refs)])
        tracker.finish(child)
    tracker.log_history(parent, [(0, summary)])
    tracker.finish(parent)


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
    return tracker, tracker.parent(tracking.flatten(asdict(params)), tags)


def _child(tracker: tracking.Tracker, parent: str, params: Params, name: str) -> str:
    """Return the nested run of a set, with the parameters that made it and nothing else, so that two compare well."""
    method, _, size = name.rpartition("-")
    plugin = params.distillers.get(method) or params.coresets.get(method)
    git = caching.git_state()
    tags = {"method": method or name, "profile": params.profile, "git_commit": str(git["commit"]), "protocol": params.evaluate.protocol}
    child = tracker.child(parent, name, tags)
    recipe = params.evaluate.small if plugin else params.evaluate.full
    known = {"method": method or name, "num_pairs": size if plugin else "all", "model": params.model_name, "seed": params.seed}
    options = plugin.as_params()["options"] if plugin else {}
    tracker.log_params(child, {**known, **tracking.flatten(options, "options."), **tracking.flatten(asdict(recipe), "recipe.")})
    return child


def _log_history(tracker: tracking.Tracker, child: str, distilled: Ref) -> None:
    """Log a distillation's history once per nested run."""
    import pandas as pd

    if not tracker.claim(child, "distilled_digest", distilled.digest):
        return
    history = pd.read_parquet(distilled.folder / "history.parquet").to_dict("records")
    rows = [(int(row.pop("iteration")), {f"distill/{key}": float(value) for key, value in row.items()}) for row in history]
    tracker.log_history(child, rows)


def _statistics(refs: list[Ref]) -> dict[str, float]:
    """Mean and (population) standard deviation over students of what `score.json` holds."""
    import numpy as np

    scores = [json.loads((ref.folder / "score.json").read_text()) for ref in refs]
    columns = {key: np.array([score[key] for score in scores]) for key in SCORED}
    means = {f"test/{key}": float(column.mean()) for key, column in columns.items()}
    spreads = {f"test/{key}_std": float(column.std()) for key, column in columns.items()}
    return {**means, **spreads, "evaluate/chosen_epoch": float(np.mean([score["chosen_epoch"] for score in scores]))}


def _curve(refs: list[Ref]) -> list[tuple[int, dict[str, float]]]:
    """Validation recall and training loss by epoch, mean over students."""
    import pandas as pd

    frame = pd.concat([pd.read_parquet(ref.folder / "curve.parquet") for ref in refs])
    averaged = frame.groupby("epoch")[["val_mean_recall", "loss"]].mean()
    columns: list[Any] = averaged.reset_index().to_dict("records")
    return [(int(row["epoch"]), {"val/mean_recall": row["val_mean_recall"], "train/loss": row["loss"]}) for row in columns]
