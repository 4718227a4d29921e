"""embed_captions: caption texts -> embeddings of the frozen text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows import cli
from flows.prepare_data import prepare_data
from flows.refs import Refs
from flows.runner import flow, run
from tasks import embed_captions as step
from tasks import preflight
from tasks.settings import params, steps


@flow("embed_captions")
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
    chosen = params.load(settings)
    preflight.check(chosen, "embed_captions")
    # `fn`: its steps are recorded as steps of this flow. Earlier stages are never forced: `force`
    # is for what this flow makes.
    refs = refs or prepare_data.fn(settings, accept_code=accept_code)
    work = steps.embedding(chosen)
    how = {"force": force, "accept_code": accept_code}
    made = run(step.embed_captions, work, refs.prepared, **how)
    return replace(refs, embeddings=made)


if __name__ == "__main__":
    cli.main("embed_captions")
