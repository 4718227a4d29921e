"""select_coresets: real pairs chosen by each method, at each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.grid import sets
from flows.refs import Refs
from flows.runner import flow, run
from flows.train_experts import train_experts
from tasks import preflight
from tasks import select_coresets as step
from tasks.settings import params, steps
from tasks.store import caching


@flow("select_coresets")
def select_coresets(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    refs: Refs | None = None,
    method: str | None = None,
) -> Refs:
    """Select the coresets of the profile.

    Args:
        settings, force, accept_code, refs: see `embed_captions`.
        method: this method only; None takes all that `methods.coresets` names.
    """
    chosen = params.load(settings)
    grid = sets("coresets", chosen.coresets, chosen.general.budgets, method)
    preflight.check(chosen, "select_coresets")
    refs = refs or train_experts.fn(settings, accept_code=accept_code)
    how = {"force": force, "accept_code": accept_code}
    made = {}
    # All sizes of a method share one artifact: `force` must not make it again for each
    with caching.forcing_once():
        for name in grid:
            work = steps.selection(chosen, name)
            made[str(name)] = run(step.select_coreset, work, refs.inputs, refs.experts[0], **how)
    return replace(refs, coresets={**refs.coresets, **made})


if __name__ == "__main__":
    cli.main("select_coresets")
