"""distill-sweep: a grid of distill + evaluate cells; several workers share a grid by methods or sizes."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows import cli
from flows.distill import distill
from flows.evaluate import evaluate
from flows.policy import ONE_AT_A_TIME
from flows.refs import Refs
from flows.train_experts import train_experts
from tasks import params


@flow(name="distill-sweep", persist_result=False, task_runner=ONE_AT_A_TIME)
def distill_sweep(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    methods: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
) -> Refs:
    """Distil and score every cell of methods x budgets, with no coresets and one cell after the other.

    Args:
        settings, force, accept_code: see `prepare_data`.
        methods: distillers of the grid; None takes all that `methods.distillers` names.
        budgets: sizes of the grid in pairs; None takes all of the profile.
    """
    refs = train_experts.fn(settings, accept_code=accept_code)
    chosen = params.load(settings)
    for name in methods or chosen.distillers:
        for size in budgets or chosen.general.budgets:
            refs = distill(settings, force, accept_code, refs, name, size)
            refs = evaluate(settings, force, accept_code, refs)
    return refs


if __name__ == "__main__":
    cli.main("distill_sweep")
