"""evaluate: fresh students on every set and on the full data, also under other encoders, and the
galleries of the distilled sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefect import flow

from flows import cli, policy
from flows.distill import distill
from flows.policy import ONE_AT_A_TIME
from flows.refs import Refs
from flows.select_coresets import select_coresets
from flows.services import session
from tasks import evaluate as step
from tasks.settings import params, steps
from tasks.settings.sets import FULL, SetName
from tasks.store.artifacts import Ref
from tasks.tracking import runs as measures


@flow(name="evaluate", persist_result=False, task_runner=ONE_AT_A_TIME)
def evaluate(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    refs: Refs | None = None,
) -> Refs:
    """Score every set of the profile, and log what is new for comparison.

    Args:
        settings, force, accept_code, refs: see `embed_captions`.
    """
    refs = refs or distill.fn(
        settings,
        accept_code=accept_code,
        refs=select_coresets.fn(settings, accept_code=accept_code),
    )
    chosen = params.load(settings)
    build_start, make_gallery = (
        policy.OnGpu(step.build_student_start),
        policy.retried(step.make_gallery),
    )
    how = {"force": force, "accept_code": accept_code}
    galleries = {}
    for name, pairs in refs.distilled.items():
        work = steps.showing(chosen, SetName.parse(name))
        galleries[name] = make_gallery(work, refs.prepared, refs.embeddings, pairs, **how)
    scores = _score(chosen, refs, refs.start, galleries, how)
    starts = {}
    for name in chosen.students:
        student = chosen.as_student(name)
        starts[name] = build_start(steps.start(student), refs.prepared, **how)
        scores += _score(student, refs, starts[name], {}, how)
    return replace(refs, student_starts=starts, scores=scores, galleries=list(galleries.values()))


def _score(
    student: params.Params,
    refs: Refs,
    start: Ref | None,
    galleries: dict[str, Ref],
    how: dict[str, bool],
) -> list[Ref]:
    """Train and score one kind of student on every set and on the full data."""
    train_student = policy.OnGpu(step.train_student)
    sets = {**refs.coresets, **refs.distilled, FULL: None}
    inputs, found = replace(refs, start=start).inputs, {}
    for name, pairs in sets.items():
        work = steps.evaluation(student, SetName.parse(name))
        seeds = range(student.evaluate.num_eval)
        found[name] = [train_student(work, inputs, pairs, seed, **how) for seed in seeds]
    measures.log_scores(
        student, session.invocation(), inputs.prepared, found, refs.distilled, galleries
    )
    return [score for of_set in found.values() for score in of_set]


if __name__ == "__main__":
    cli.main("evaluate")
