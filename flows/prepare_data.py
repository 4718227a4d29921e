"""prepare_data: raw dataset -> memory-mapped images, captions and splits."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows import cli, policy
from flows.policy import ONE_AT_A_TIME
from flows.refs import Refs
from tasks import prepare_data as step
from tasks.settings import params, steps


@flow(name="prepare_data", persist_result=False, task_runner=ONE_AT_A_TIME)
def prepare_data(
    settings: Sequence[str] = (), force: bool = False, accept_code: bool = False
) -> Refs:
    """Make the prepared dataset of the profile.

    Args:
        settings: overrides of params.yaml, `section.key=value`.
        force: compute again even when it is there.
        accept_code: keep an artifact whose code alone has changed.
    """
    make = policy.retried(step.prepare_data)
    return Refs(
        prepared=make(
            steps.preparation(params.load(settings)), force=force, accept_code=accept_code
        )
    )


if __name__ == "__main__":
    cli.main("prepare_data")
