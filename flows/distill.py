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
from tasks.exchange.found import imported
from tasks.settings import params, steps
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.store.artifacts import Ref
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
    made: dict[SetName, Ref] = {}
    for name in grid:
        with system.watched() as samples:
            ref = distilled(chosen, name, refs, made, how)
        measures.log_distilled(chosen, invocation(), refs.inputs.prepared, ref, samples)
    own = {str(name): made[name] for name in grid}
    return replace(refs, distilled={**refs.distilled, **own})


def distilled(
    chosen: Params, name: SetName, refs: Refs, made: dict[SetName, Ref], how: dict[str, bool]
) -> Ref:
    """Return one set, after those that it begins with.

    Args:
        made: sets that are there; it and those are added.
        how: `force` and `accept_code`; what it begins with is not forced.
    """
    if name in made:
        return made[name]
    if name in chosen.imported:
        made.update(
            (SetName.parse(told), ref)
            for told, ref in imported(chosen, refs.inputs.digests()).items()
        )
        return made[name]
    work, earlier = steps.distillation(chosen, name), None
    if work.begins_with:
        earlier = distilled(chosen, work.begins_with, refs, made, {**how, "force": False})
    experts = work.read(refs.experts)
    made[name] = run(step.distill, work, refs.inputs, experts, earlier, **how)
    return made[name]


if __name__ == "__main__":
    cli.main("distill")
