"""What MLflow is told of a study: a run with its pages as files, and a nested run for each row of
its first table with the numbers of that row.

It is logged once for each set of scores (spool.py): as long as no student changes, nothing is told
again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.settings.params import Params
from tasks.settings.studies import Study
from tasks.store import artifacts, caching
from tasks.store.artifacts import Ref, canonical_digest
from tasks.tracking import records, runs, spool
from tasks.tracking.records import Part, Record, Run

ROW, PAGES = "row_digest", "study_digest"  # of a row's run, and of its parent


def log_study(
    params: Params,
    study: Study,
    prepared: Ref,
    scores: Sequence[Ref],
    numbers: Mapping[str, Mapping[str, float]],
    pages: Sequence[Path],
) -> None:
    """Log a study, unless MLflow has it with exactly these scores.

    Args:
        scores: of all its students.
        numbers: {row: {metric: value}}; a value that is not finite is left out.
        pages: its files.
    """
    digest = canonical_digest([params.profile, study.name, [ref.digest for ref in scores]])

    def build() -> tuple[Record, dict[str, Path]]:
        files = {page.name: page for page in pages}
        parts = [
            Part(_row(study, name), ROW, canonical_digest([digest, name]), [(0, _finite(values))])
            for name, values in numbers.items()
        ]
        # The parent is marked last: a process that dies before leaves a record that is told again
        parts.append(Part(None, PAGES, digest, [], list(files)))
        artifacts.confirm([prepared])
        # A run of its own for each digest, since parameters of a run are told once
        invocation = canonical_digest(["study", digest])[:32]
        return Record(
            params.report.dataset, invocation, _parent(params, study, prepared), parts
        ), files

    spool.log(params.report.dataset, PAGES, digest, build)


def _parent(params: Params, study: Study, prepared: Ref) -> Run:
    git, dataset = caching.git_state(), params.report.dataset
    tags = {
        "profile": params.profile,
        "study": study.name,
        "protocol": params.evaluate.protocol,
        "dataset": dataset,
        "git_is_dirty": str(git["is_dirty"]).lower(),
        "parameters_hash": params.digest,
        "prepared_digest": prepared.digest,
        **runs.source_of(git["commit"], f"study {study.name}"),
    }
    told = {"profile": params.profile, **records.flatten(vars(study.section), "study.")}
    inputs = [runs.input_of(dataset, prepared)]
    return Run(f"{dataset} study {study.name}", tags, told, inputs)


def _row(study: Study, name: str) -> Run:
    return Run(name, {"study": study.name}, {}, [])


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
