"""evaluate: fresh students on every set and on the full data, and the galleries of the distilled sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefect import flow

from flows import cli, policy, session
from flows.distill import distill
from flows.policy import ONE_AT_A_TIME
from flows.refs import Refs
from flows.select_coresets import select_coresets
from tasks import evaluate as step
from tasks import measures, params


@flow(name="evaluate", persist_result=False, task_runner=ONE_AT_A_TIME)
def evaluate(settings: Sequence[str] = (), force: bool = False, accept_code: bool = False, refs: Refs | None = None) -> Refs:
    """Score every set of the profile, and log what is new for comparison.

    Args:
        settings, force, accept_code, refs: see `embed_captions`.
    """
    refs = refs or distill.fn(settings, accept_code=accept_code, refs=select_coresets.fn(settings, accept_code=accept_code))
    chosen = params.load(settings)
    train_student, make_gallery = policy.on_gpu(step.train_student), policy.retried(step.make_gallery)
    how = {"force": force, "accept_code": accept_code}
    sets = {**refs.coresets, **refs.distilled, step.FULL: None}
    given = (chosen, refs.prepared, refs.embeddings)
    students = {
        name: [train_student(*given, refs.start, pairs, name, seed, **how) for seed in range(chosen.evaluate.num_eval)]
        for name, pairs in sets.items()
    }
    galleries = {name: make_gallery(*given, pairs, name, **how) for name, pairs in refs.distilled.items()}
    assert refs.prepared
    measures.log_scores(chosen, session.invocation(), refs.prepared, students, refs.distilled, galleries)
    scores = [score for of_set in students.values() for score in of_set]
    return replace(refs, scores=scores, galleries=list(galleries.values()))


if __name__ == "__main__":
    cli.main("evaluate")
