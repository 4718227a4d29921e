"""evaluate: fresh students on every set and on the full data, also under other encoders, and the
galleries of the distilled sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from flows import cli
from flows.distill import distill
from flows.refs import Refs
from flows.runner import flow, invocation, run
from flows.select_coresets import select_coresets
from tasks import evaluate as step
from tasks import preflight
from tasks.exchange.found import imported, without_words
from tasks.settings import params, steps
from tasks.settings.sets import FULL, SetName
from tasks.store.artifacts import Ref
from tasks.tracking import runs as measures

Found = dict[str, list[Ref]]  # scores by set


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
    # One that is missing is told before anything is made
    imported(chosen)
    refs = refs or distill.fn(
        settings,
        accept_code=accept_code,
        refs=select_coresets.fn(settings, accept_code=accept_code),
    )
    # Again, since what an imported set has to fit is known only here
    refs = replace(refs, imported=imported(chosen, refs.inputs.digests()))

    heard: list[tuple[params.Params, Found, dict[str, Ref]]] = []

    def log(student: params.Params, found: Found, galleries: dict[str, Ref]) -> None:
        # A measure of the main student's sets takes what the further ones scored
        unseen = [] if student.student else [further for _, further, _ in heard[1:]]
        told = (found, refs.distilled, galleries, unseen)
        measures.log_scores(student, invocation(), refs.inputs.prepared, *told)

    def hear(student: params.Params, found: Found, galleries: dict[str, Ref]) -> None:
        heard.append((student, found, galleries))
        if student.student:
            log(student, found, galleries)

    try:
        return scored(chosen, refs, {"force": force, "accept_code": accept_code}, hear)
    finally:
        # Also where a further student failed: the main one is done
        for main in heard[:1]:
            log(*main)


def scored(
    chosen: params.Params,
    refs: Refs,
    how: dict[str, bool],
    log: Callable[[params.Params, Found, dict[str, Ref]], None],
) -> Refs:
    """Score all sets of `refs`, and return `refs` with the scores and galleries.

    Args:
        chosen: the parameters of the profile.
        refs: what earlier stages made.
        how: `force` and `accept_code` of every step.
        log: called once for each kind of student, with its parameters, its scores by set, and the
            galleries by set (none for a further student).
    """
    galleries = {}
    for name, pairs in refs.distilled.items():
        work = steps.showing(chosen, SetName.parse(name))
        made = run(step.make_gallery, work, refs.prepared, refs.embeddings, pairs, **how)
        galleries[name] = made
    found = _score(chosen, refs, refs.start, how)
    log(chosen, found, galleries)
    scores, starts = list(chain(*found.values())), {}
    for name in chosen.students:
        student = chosen.as_student(name)
        begun = steps.start(student)
        starts[name] = run(step.build_student_start, begun, refs.prepared, **how)
        found = _score(student, refs, starts[name], how)
        log(student, found, {})
        scores += chain(*found.values())
    return replace(refs, student_starts=starts, scores=scores, galleries=list(galleries.values()))


def _score(student: params.Params, refs: Refs, start: Ref | None, how: dict[str, bool]) -> Found:
    """Train and score one kind of student on every set and on the full data, and score linear
    heads.
    """
    sets: dict[str, Ref | None] = {**refs.coresets, **refs.imported, **refs.distilled}
    random = {name: ref for name, ref in refs.coresets.items() if SetName.parse(name).is_random}
    for text, vectors in {**random, **without_words(refs.imported), **refs.distilled}.items():
        for further in student.again(SetName.parse(text)):
            sets[str(further)] = vectors
    sets[FULL] = None
    inputs, found = replace(refs, start=start).inputs, Found()
    for text, pairs in sets.items():
        work = steps.evaluation(student, SetName.parse(text))
        found[text] = [
            run(step.train_student, work, inputs, pairs, seed, **how)
            for seed in range(student.evaluate.num_eval)
        ]
    if student.evaluate.ceilings and not student.ceilings:
        print(f"evaluate: {student.model_name} trains its image encoder: it has no ceilings")
    for ceiling in student.ceilings:
        work = steps.evaluation(student, ceiling)
        images = random[str(replace(ceiling, ending=""))] if ceiling.is_random else None
        found[str(ceiling)] = [run(step.score_ceiling, work, inputs, images, **how)]
    return found


if __name__ == "__main__":
    cli.main("evaluate")
