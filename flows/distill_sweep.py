"""distill-sweep: a grid of distilled and scored sets; several workers share a grid by methods or
sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.distill import distill
from flows.evaluate import evaluate
from flows.grid import sets
from flows.refs import Refs
from flows.runner import flow
from flows.select_coresets import select_coresets
from flows.train_experts import train_experts
from tasks import preflight
from tasks.exchange.found import imported
from tasks.settings import params
from tasks.settings.sets import SetName
from tasks.store import caching
from tasks.store.artifacts import Ref

RANDOM = "random"


@flow("distill-sweep")
def distill_sweep(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    methods: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
) -> Refs:
    """Distil and score every set of methods x budgets, one after the other, each beside random
    selection of its size.

    Args:
        settings, force, accept_code: see `prepare_data`.
        methods: distillers of the grid; None takes all that `methods.distillers` names.
        budgets: sizes of the grid in pairs; None takes all of the profile.

    Raises:
        ValueError: a method or size that the parameters do not name, before anything is computed.
    """
    chosen = params.load(settings)
    names, sizes = methods or list(chosen.distillers), budgets or list(chosen.general.budgets)
    grid = [SetName(name, size) for name in names for size in sizes]
    for one in grid:
        sets("distillers", chosen.distillers, chosen.general.budgets, one.method, one.num_pairs)
    preflight.check(chosen, "evaluate")
    imported(chosen)
    trained = train_experts.fn(settings, accept_code=accept_code)
    imported(chosen, trained.inputs.digests())
    selected = select_coresets.fn(settings, force, accept_code, trained, RANDOM).coresets
    made, scores = trained, dict[str, Ref]()
    with caching.forcing_once():  # sets share the students of the full data
        for one in grid:
            random = str(replace(one, method=RANDOM))
            beside = {random: selected[random]}
            refs = replace(trained, coresets=beside)
            refs = distill(settings, force, accept_code, refs, one.method, one.num_pairs)
            refs = evaluate(settings, force, accept_code, refs)
            scores = {**{ref.path: ref for ref in refs.scores}, **scores}
            made = replace(
                refs,
                coresets={**made.coresets, **beside},
                distilled={**made.distilled, **refs.distilled},
                galleries=[*made.galleries, *refs.galleries],
            )
    return replace(made, scores=list(scores.values()))


if __name__ == "__main__":
    cli.main("distill_sweep")
