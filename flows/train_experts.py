"""train_experts: what all experts share, and one trajectory per expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.embed_captions import embed_captions
from flows.refs import Refs
from flows.runner import flow, run
from tasks import preflight
from tasks import train_experts as step
from tasks.settings import params, steps


@flow("train_experts")
def train_experts(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    refs: Refs | None = None,
    indices: Sequence[int] | None = None,
) -> Refs:
    """Train the experts of the profile; only the first, for coresets, where no distiller reads any.

    Args:
        settings, force, accept_code, refs: see `embed_captions`.
        indices: these experts only, so that several workers can share the work; None takes all that
            a run reads.
    """
    chosen = params.load(settings)
    preflight.check(chosen, "train_experts")
    refs = refs or embed_captions.fn(settings, accept_code=accept_code)
    how = {"force": force, "accept_code": accept_code}
    start = run(step.build_start, steps.start(chosen), refs.prepared, **how)
    refs = replace(refs, start=start)
    work = steps.training(chosen)
    wanted = chosen.experts if indices is None else indices
    experts = [run(step.train_expert, work, refs.inputs, index, **how) for index in wanted]
    return replace(refs, experts=experts)


if __name__ == "__main__":
    cli.main("train_experts")
