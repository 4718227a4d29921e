"""distill: synthetic pairs by each method, at each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.grid import cells
from flows.refs import Refs
from flows.runner import flow, run
from flows.services import session
from flows.train_experts import train_experts
from tasks import distill as step
from tasks.settings import params
from tasks.tracking import runs as measures


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
    refs = refs or train_experts.fn(settings, accept_code=accept_code)
    chosen = params.load(settings)
    how = {"force": force, "accept_code": accept_code}
    given = (chosen, refs.prepared, refs.embeddings, refs.start, refs.experts)
    assert refs.prepared
    made = {}
    for name, size in cells(
        "distillers", chosen.distillers, chosen.general.budgets, method, num_pairs
    ):
        ref = run(step.distill, *given, name, size, **how)
        measures.log_distilled(chosen, session.invocation(), refs.prepared, ref)
        made[f"{name}-{size}"] = ref
    return replace(refs, distilled={**refs.distilled, **made})


if __name__ == "__main__":
    cli.main("distill")
