"""evaluate: fresh students on every set and on the full data, also under other encoders, and the
galleries of the distilled sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.distill import distill
from flows.refs import Refs
from flows.runner import flow, invocation, run
from flows.select_coresets import select_coresets
from tasks import evaluate as step
from tasks import preflight
from tasks.exchange.found import imported
from tasks.settings import params, steps
from tasks.settings.sets import FULL, SetName
from tasks.store.artifacts import Ref
from tasks.tracking import runs as measures


@flow("evaluate")
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
    chosen = params.load(settings)
    preflight.check(chosen, "evaluate")
    imported(chosen)  # one that is missing is told before anything is made
    refs = refs or distill.fn(
        settings,
        accept_code=accept_code,
        refs=select_coresets.fn(settings, accept_code=accept_code),
    )
    refs = replace(refs, imported=imported(chosen, refs.inputs.digests()))
    how = {"force": force, "accept_code": accept_code}
    galleries = {}
    for name, pairs in refs.distilled.items():
        work = steps.showing(chosen, SetName.parse(name))
        made = run(step.make_gallery, work, refs.prepared, refs.embeddings, pairs, **how)
        galleries[name] = made
    scores = _score(chosen, refs, refs.start, galleries, how)
    starts = {}
    for name in chosen.students:
        student = chosen.as_student(name)
        begun = steps.start(student)
        starts[name] = run(step.build_student_start, begun, refs.prepared, **how)
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
    sets: dict[str, Ref | None] = {**refs.coresets, **refs.imported, **refs.distilled}
    if student.evaluate.decoded:
        for name in refs.distilled:
            sets[str(SetName.parse(name).decoded())] = refs.distilled[name]
    sets[FULL] = None
    inputs, found = replace(refs, start=start).inputs, {}
    for name, pairs in sets.items():
        work = steps.evaluation(student, SetName.parse(name))
        found[name] = [
            run(step.train_student, work, inputs, pairs, seed, **how)
            for seed in range(student.evaluate.num_eval)
        ]
    measures.log_scores(student, invocation(), inputs.prepared, found, refs.distilled, galleries)
    return [score for of_set in found.values() for score in of_set]


if __name__ == "__main__":
    cli.main("evaluate")
