"""embed_captions: caption texts -> embeddings of the frozen text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefect import flow

from flows import cli, policy
from flows.policy import ONE_AT_A_TIME
from flows.prepare_data import prepare_data
from flows.refs import Refs
from tasks import embed_captions as step
from tasks.settings import params, steps


@flow(name="embed_captions", persist_result=False, task_runner=ONE_AT_A_TIME)
def embed_captions(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    refs: Refs | None = None,
) -> Refs:
    """Embed every caption of the profile once.

    Args:
        settings, force, accept_code: see `prepare_data`.
        refs: what earlier stages made; without it their tasks run here first, and find what is
            there.
    """
    refs = refs or prepare_data.fn(settings, accept_code=accept_code)
    make = policy.OnGpu(step.embed_captions)
    work = steps.embedding(params.load(settings))
    embeddings = make(work, refs.prepared, force=force, accept_code=accept_code)
    return replace(refs, embeddings=embeddings)


if __name__ == "__main__":
    cli.main("embed_captions")
