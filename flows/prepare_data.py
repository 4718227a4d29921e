"""prepare_data: raw dataset -> memory-mapped images, captions and splits."""

from __future__ import annotations

import os
from collections.abc import Sequence

from flows import cli
from flows.refs import Refs
from flows.runner import flow, run
from tasks import preflight, stages
from tasks import prepare_data as step
from tasks.exchange.found import imported
from tasks.settings import params, steps


@flow("prepare_data")
def prepare_data(
    settings: Sequence[str] = (), force: bool = False, accept_code: bool = False
) -> Refs:
    """Make the prepared dataset of the profile.

    Args:
        settings: overrides of params.yaml, `section.key=value`.
        force: compute again even when it is there.
        accept_code: keep an artifact where the code alone has changed.
    """
    chosen = params.load(settings)
    if "DVC_STAGE" in os.environ:
        # DVC runs the stages one by one, and this one first
        preflight.check(chosen, stages.LAST)
        imported(chosen)
    work = steps.preparation(chosen)
    made = run(step.prepare_data, work, force=force, accept_code=accept_code)
    return Refs(prepared=made)


if __name__ == "__main__":
    cli.main("prepare_data")
