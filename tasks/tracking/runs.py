"""What MLflow is told: a distilled set when it is made, and every set of a pipeline once its
students are scored.

Each is logged once, whichever process made it: the digest of what a run shows is a tag of the run,
set last. Where all is logged, MLflow is not imported. A run has at most 40 metric keys. What is
logged is a record of values (records.py), which reaches MLflow by way of spool.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tasks.beside import measures_of, recalls_of
from tasks.core.evaluation import metrics
from tasks.core.evaluation.statistics import describe, mean
from tasks.core.foundations.file_names import CURVE, GALLERY, HISTORY, SCORE, SHEET
from tasks.settings.params import Params
from tasks.settings.sets import CEILING, EQUAL_BYTES, SetName
from tasks.store import artifacts, caching, manifests
from tasks.store.artifacts import Ref
from tasks.tracking import client, records, spool
from tasks.tracking.records import Input, Invocation, Part, Record, Row, Run

DISTILLED, SCORES, STUDENTS = "distilled_digest", "scores_digest", "students_digest"
MEASURES = {"ior_pairs": "test/improvement_over_random"}  # names of metrics that are not their own


def log_distilled(
    params: Params,
    invocation: Invocation,
    prepared: Ref,
    distilled: Ref,
    samples: Sequence[Row] = (),
) -> None:
    """Log losses and step sizes over the iterations of a set, unless MLflow has them.

    Args:
        samples: of the machine while the set was made, see system.py.
    """

    def build() -> tuple[Record, dict[str, Path]]:
        name = SetName.parse(distilled.folder.name)
        child = child_of(params, prepared, distilled, name, distilled)
        history = history_of(child, distilled)
        parts = [replace(history, metrics=[*history.metrics, *samples])]
        # After it was read: another run may have replaced it meanwhile
        artifacts.confirm([distilled])
        return _record(params, invocation, prepared, parts), {}

    spool.log(params.report.dataset, DISTILLED, distilled.digest, build)


def log_scores(
    params: Params,
    invocation: Invocation,
    prepared: Ref,
    students: dict[str, list[Ref]],
    distilled: dict[str, Ref],
    galleries: dict[str, Ref],
    unseen: Sequence[Mapping[str, list[Ref]]] = (),
) -> None:
    """Log a nested run per set: mean and standard deviation over students, validation curves,
    galleries and histories.

    All sets go under one parent, so that they compare, unless MLflow has a parent with exactly
    these scores.

    Args:
        students: scores by set name (`<method>-<num_pairs>`, `full`), all of the kind of student
            that `params` describes.
        galleries: by set name; empty for a further student: its runs hold scores alone.
        unseen: scores by set name of each further student, for the main one.
    """
    cell = params.variant.cell if params.variant else None
    tag = ".".join(filter(None, (SCORES, cell, params.student)))
    sets = {name: _digests(refs) for name, refs in students.items()}
    shown = [_digests(refs.values()) for refs in (distilled, galleries)]
    what: dict[str, Any] = {"students": sets, "sets": shown}
    if unseen:
        what["unseen"] = [_digests(ref for refs in one.values() for ref in refs) for one in unseen]
    digest = artifacts.canonical_digest(what)

    def build() -> tuple[Record, dict[str, Path]]:
        parts: list[Part] = []
        files: dict[str, Path] = {}
        for name, refs in students.items():
            made, gallery = distilled.get(name), galleries.get(name)
            child = child_of(params, prepared, made or refs[0], SetName.parse(name), made)
            own: dict[str, Path] = {}
            if made and gallery:
                parts.append(history_of(child, made))
                own = {f"{name}/{file}": gallery.folder / file for file in (SHEET, GALLERY)}
            values = {**statistics_of(refs), **beside_of(name, students, unseen)}
            parts.append(_scores(child, refs, own, values))
            files |= own
        artifacts.confirm([*distilled.values(), *galleries.values()])
        scores = (refs for one in (students, *unseen) for refs in one.values())
        artifacts.confirm(chain.from_iterable(scores))
        # The parent is marked last: a process that dies before leaves a record that is told again
        parts.append(Part(None, tag, digest))
        return _record(params, invocation, prepared, parts), files

    spool.log(params.report.dataset, tag, digest, build)


def _digests(refs: Iterable[Ref]) -> list[str]:
    return [ref.digest for ref in refs]


def _record(params: Params, invocation: Invocation, prepared: Ref, parts: Sequence[Part]) -> Record:
    """Return a record: parts below the run of this invocation.

    That run has all parameters of the profile. For a cell of a preset it has the preset's name
    alone, since its cells share the run.
    """
    git, dataset = caching.git_state(), params.report.dataset
    tags = {
        "profile": params.profile,
        "git_is_dirty": str(git["is_dirty"]).lower(),
        "parameters_hash": params.digest,
        "prepared_digest": prepared.digest,
        "dataset": dataset,
        **source_of(git["commit"], invocation.command),
    }
    words, told = [dataset, invocation.command], records.flatten(asdict(params))
    if params.variant:
        words.append(params.variant.preset)
        told = {"preset": params.variant.preset}
        tags |= told
    parent = Run(" ".join(words), tags, told, [input_of(dataset, prepared)])
    return Record(dataset, invocation.id, parent, list(parts))


def child_of(params: Params, prepared: Ref, made: Ref, name: SetName, pairs: Ref | None) -> Run:
    """Return the nested run of a set, with the parameters that made it and nothing else, so that
    two compare well.

    Args:
        made: an artifact of the set; the run names its commit, which may be older than this
            process.
        pairs: the distilled set.
    """
    plugin = params.distillers.get(name.method) or params.coresets.get(name.method)
    git, dataset = manifests.read(made.folder, "git").facts["git"], params.report.dataset
    tags = {
        "method": name.label,
        "profile": params.profile,
        "student": params.model_name,
        "protocol": params.evaluate.protocol,
        "dataset": dataset,
        **source_of(git["commit"], str(name)),
    }
    told = {
        "method": name.label,
        "num_pairs": str(name.num_pairs or "all"),
        "model": params.model_name,
        "seed": str(params.seed),
    }
    words = [str(name), params.student]
    if params.variant:
        words.insert(0, params.variant.cell)
        tags |= {"preset": params.variant.preset, "variant": params.variant.cell}
        told |= records.flatten(params.variant.settings, "cell.")
    # Full data has no method, and a recipe of its own; linear heads have neither
    recipe = params.evaluate.small if name.num_pairs else params.evaluate.full
    if plugin:
        told |= records.flatten(plugin.as_params()["options"], "options.")
        # The parent run sums up sets as they are, under the main student
        if params.student is None and not name.ending:
            kind = client.MADE if pairs else client.CHOSEN
            # Random pairs of equal bytes are no coreset of this size, so they sum up nothing
            if name.method != EQUAL_BYTES:
                tags[client.SET_KIND] = kind
    if name.ending != CEILING:
        told |= records.flatten(asdict(recipe), "recipe.")
    inputs = [input_of(dataset, prepared)]
    if pairs:
        inputs.insert(0, _set_of(pairs, name))  # MLflow's table shows the first
    return Run(" ".join(filter(None, words)), tags, told, inputs)


def source_of(commit: str | None, name: str) -> dict[str, str]:
    """Return the tags of what made a run, and from which commit, as MLflow's page shows them."""
    tags = {"git_commit": str(commit), "mlflow.source.name": name, "mlflow.source.type": "LOCAL"}
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def input_of(name: str, ref: Ref, context: str = "prepared") -> Input:
    return Input(name, ref.digest, json.dumps({"uri": ref.path}), context=context)


def _set_of(pairs: Ref, name: SetName) -> Input:
    """Return a distilled set as a dataset with its bytes as stored and its whole digest.

    MLflow's own field holds the first 36 digits of the digest.
    """
    from tasks.core.training.pair_files import stored_bytes

    size = stored_bytes(pairs.folder)
    told = records.flatten({"num_bytes": size, "num_pairs": name.num_pairs, "sha256": pairs.digest})
    return replace(input_of(str(name), pairs, "distilled"), profile=told)


def history_of(child: Run, distilled: Ref) -> Part:
    import pandas as pd

    history = pd.read_parquet(distilled.folder / HISTORY).set_index("iteration")
    rows = _by_step(history.add_prefix("distill/"))
    return Part(child, DISTILLED, distilled.digest, rows)


def _scores(child: Run, refs: list[Ref], files: Iterable[str], values: dict[str, float]) -> Part:
    digest = artifacts.canonical_digest(_digests(refs))
    return Part(child, STUDENTS, digest, [(0, values), *curve_of(refs)], list(files))


def beside_of(
    name: str,
    students: Mapping[str, list[Ref]],
    unseen: Sequence[Mapping[str, list[Ref]]] = (),
) -> dict[str, float]:
    """Return the measures of a set beside random pairs of its size and the full data, as fractions
    of 1 (docs/measures.md). Some need further scores: of plain, augmented or further students.

    Args:
        students: scores by set, all of one kind of student.
        unseen: the same of each further student.
    """
    found = measures_of(
        SetName.parse(name), recalls_of(students), [recalls_of(one) for one in unseen]
    )
    return {MEASURES.get(key, f"test/{key}"): value for key, value in found.items()}


def statistics_of(refs: list[Ref]) -> dict[str, float]:
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


def curve_of(refs: list[Ref]) -> list[Row]:
    """Validation recall and training loss by epoch, mean over students."""
    import pandas as pd

    frame = pd.concat([pd.read_parquet(ref.folder / CURVE) for ref in refs])
    names = {"val_mean_recall": "val/mean_recall", "loss": "train/loss"}
    return _by_step(frame.groupby("epoch")[list(names)].agg(mean).rename(columns=names))


def _by_step(frame: Any) -> list[Row]:
    """Return the rows of a frame indexed by step, without values that are not finite."""
    return [
        (int(step), {key: value for key, value in values.items() if math.isfinite(value)})
        for step, values in frame.astype(float).to_dict("index").items()
    ]
