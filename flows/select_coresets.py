"""select_coresets: real pairs chosen by each method, at each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.grid import cells
from flows.refs import Refs
from flows.runner import flow, run
from flows.train_experts import train_experts
from tasks import select_coresets as step
from tasks.settings import params
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
    refs = refs or train_experts.fn(settings, accept_code=accept_code)
    chosen = params.load(settings)
    how = {"force": force, "accept_code": accept_code}
    given = (chosen, refs.prepared, refs.embeddings, refs.start, refs.experts[0])
    grid = cells("coresets", chosen.coresets, chosen.general.budgets, method)
    with caching.forcing_once():  # a method's sizes share what it computes for all of them
        made = {
            f"{name}-{size}": run(step.select_coreset, *given, name, size, **how)
            for name, size in grid
        }
    return replace(refs, coresets={**refs.coresets, **made})


if __name__ == "__main__":
    cli.main("select_coresets")
