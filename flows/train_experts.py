"""train_experts: one trajectory per expert; each is a mapped, cached task that holds a GPU slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefect import flow

from flows import cli, policy
from flows.embed_captions import embed_captions
from flows.policy import ONE_AT_A_TIME
from flows.refs import Refs
from tasks import train_experts as step
from tasks.settings import params, steps


@flow(name="train_experts", persist_result=False, task_runner=ONE_AT_A_TIME)
def train_experts(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    refs: Refs | None = None,
    indices: Sequence[int] | None = None,
) -> Refs:
    """Train the experts of the profile.

    Args:
        settings, force, accept_code, refs: see `embed_captions`.
        indices: these experts only, so that several workers can share the work; None takes all.
    """
    refs = refs or embed_captions.fn(settings, accept_code=accept_code)
    chosen = params.load(settings)
    build_start, train_expert = policy.OnGpu(step.build_start), policy.OnGpu(step.train_expert)
    start = build_start(steps.start(chosen), refs.prepared, force=force, accept_code=accept_code)
    wanted = list(range(chosen.train_experts.num_experts) if indices is None else indices)
    refs = replace(refs, start=start)
    given = (steps.training(chosen), refs.inputs)
    experts = train_expert.map(given, wanted, force=force, accept_code=accept_code)
    return replace(refs, experts=experts)


if __name__ == "__main__":
    cli.main("train_experts")
