"""pipeline: the whole DAG as sub-flows, from the raw dataset to the report."""

from __future__ import annotations

from collections.abc import Sequence

from flows import cli
from flows.distill import distill
from flows.embed_captions import embed_captions
from flows.evaluate import evaluate
from flows.prepare_data import prepare_data
from flows.refs import Refs
from flows.report import report
from flows.runner import flow
from flows.select_coresets import select_coresets
from flows.train_experts import train_experts
from tasks import preflight, stages
from tasks.exchange.found import imported
from tasks.settings import params


@flow("pipeline")
def pipeline(settings: Sequence[str] = (), force: bool = False, accept_code: bool = False) -> Refs:
    """Make everything of one profile; what is there already is used.

    Args:
        settings: overrides of params.yaml, `section.key=value`.
        force: compute all of it again.
        accept_code: keep artifacts where the code alone has changed.
    """
    chosen = params.load(settings)
    preflight.check(chosen, stages.LAST)
    # An imported set that is missing is told before anything is made
    imported(chosen)
    refs = prepare_data(settings, force, accept_code)
    refs = embed_captions(settings, force, accept_code, refs)
    refs = train_experts(settings, force, accept_code, refs)
    # One that does not fit is told before anything is distilled
    imported(chosen, refs.inputs.digests())
    refs = select_coresets(settings, force, accept_code, refs)
    refs = distill(settings, force, accept_code, refs)
    refs = evaluate(settings, force, accept_code, refs)
    return report(settings, force, accept_code, refs)


if __name__ == "__main__":
    cli.main("pipeline")
