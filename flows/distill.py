"""distill: synthetic pairs by each method, at each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.grid import sets
from flows.refs import Refs
from flows.runner import flow, invocation, run
from flows.train_experts import train_experts
from tasks import distill as step
from tasks import preflight
from tasks.settings import params, steps
from tasks.tracking import runs as measures
from tasks.tracking import system


@flow("distill")
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
    preflight.check(chosen, "distill")
    works = [steps.distillation(chosen, name) for name in grid]
    # Methods without experts train none, not even the first one, which is for coresets
    indices = None if any(work.method.needs_experts for work in works) else ()
    refs = refs or train_experts.fn(settings, accept_code=accept_code, indices=indices)
    how = {"force": force, "accept_code": accept_code}
    inputs, made = refs.inputs, {}
    for work in works:
        with system.watched() as samples:
            ref = run(step.distill, work, inputs, work.read(refs.experts), **how)
        measures.log_distilled(chosen, invocation(), inputs.prepared, ref, samples)
        made[str(work.set_name)] = ref
    return replace(refs, distilled={**refs.distilled, **made})


if __name__ == "__main__":
    cli.main("distill")
