"""study: heads of many kinds on the sets of a profile, each scored by the one evaluator.

`vl-distillery study NAME`; `--list` names the studies. What is there is used, so a study that was
killed goes on with the same command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flows import cli
from flows.distill import distill
from flows.refs import Refs
from flows.runner import flow, run
from flows.train_experts import train_experts
from tasks import evaluate, preflight, select_coresets
from tasks import study as step
from tasks.settings import params, steps, studies
from tasks.settings.sets import FULL
from tasks.store.artifacts import Ref
from tasks.tracking.studies import log_study


@dataclass(frozen=True)
class StudyRefs:
    """What a study used and made, and the files of its page."""

    refs: Refs
    pages: list[str]

    def count(self) -> tuple[int, int]:
        """Return how many artifacts were made and how many were there."""
        return self.refs.count()


@flow("study")
def study(
    study: str, settings: Sequence[str] = (), force: bool = False, accept_code: bool = False
) -> StudyRefs:
    """Train and score the students of a study, write its page and log it.

    Args:
        study: its name in `studies` of presets.yaml.
        settings, accept_code: see `prepare_data`.
        force: train the students again.
    """
    chosen = params.load(settings)
    wanted = studies.load(study, chosen)
    preflight.check(chosen, "distill")
    how = {"force": force, "accept_code": accept_code}
    # At least the first expert: coresets are selected in its space, also where no method reads any
    refs = train_experts.fn(settings, accept_code=accept_code)
    refs = distill.fn(settings, accept_code=accept_code, refs=refs)
    # Heads train on features, also where the profile trains its encoder and has none
    inputs = replace(refs.inputs, start=_features(chosen, wanted, refs, accept_code))
    planned = step.plan(chosen, wanted, inputs, refs.distilled)
    coresets = {}
    for name in planned.coresets:
        what = (steps.selection(chosen, name), refs.inputs, refs.experts[0])
        made = run(select_coresets.select_coreset, *what, accept_code=accept_code)
        coresets[str(name)] = made
    sets, scores = {**coresets, **refs.distilled, FULL: None}, []
    for cell in planned.cells:
        pairs = sets[str(cell.work.set_name)]
        of_cell = [
            run(evaluate.train_student, cell.work, inputs, pairs, seed, **how)
            for seed in range(wanted.section.num_students)
        ]
        scores.append(of_cell)
    written = run(step.write_study, chosen, wanted, planned, scores)
    print("\n".join(map(str, written.files)))
    refs = replace(refs, coresets=coresets, scores=[ref for of_cell in scores for ref in of_cell])
    told = (refs.inputs.prepared, refs.scores, written.numbers, written.files)
    log_study(chosen, wanted, *told)
    return StudyRefs(refs, [str(path) for path in written.files])


def _features(chosen: params.Params, wanted: studies.Study, refs: Refs, accept_code: bool) -> Ref:
    """Return the start of the profile, or one with features where its encoder is trained."""
    assert refs.start and refs.prepared
    if chosen.model.is_encoder_frozen:
        return refs.start
    work = studies.start(chosen, wanted)
    return run(evaluate.build_student_start, work, refs.prepared, accept_code=accept_code)


if __name__ == "__main__":
    cli.main("study")
