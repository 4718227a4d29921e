"""distill: synthetic pairs by each method, at each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefect import flow

from flows import cli, policy
from flows.grid import sets
from flows.policy import ONE_AT_A_TIME
from flows.refs import Refs
from flows.services import session
from flows.train_experts import train_experts
from tasks import distill as step
from tasks.settings import params, steps
from tasks.tracking import runs as measures


@flow(name="distill", persist_result=False, task_runner=ONE_AT_A_TIME)
def distill(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    refs: Refs | None = None,
    method: str | None = None,
    num_pairs: int | None = None,
) -> Refs:
    """Distil the sets of the profile, and log each one when it is made.

    Args:
        settings, force, accept_code, refs: see `embed_captions`.
        method: this method only; None takes all that `methods.distillers` names.
        num_pairs: this size only; None takes all `budgets`.
    """
    chosen = params.load(settings)
    grid = sets("distillers", chosen.distillers, chosen.general.budgets, method, num_pairs)
    refs = refs or train_experts.fn(settings, accept_code=accept_code)
    make = policy.OnGpu(step.distill)
    inputs, made = refs.inputs, {}
    for name in grid:
        work = steps.distillation(chosen, name)
        ref = make(work, inputs, refs.experts, force=force, accept_code=accept_code)
        measures.log_distilled(chosen, session.invocation(), inputs.prepared, ref)
        made[str(name)] = ref
    return replace(refs, distilled={**refs.distilled, **made})


if __name__ == "__main__":
    cli.main("distill")
