"""prepare_data: raw dataset -> memory-mapped images, captions and splits."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from flows import cli
from flows.refs import Refs
from flows.runner import flow, run
from tasks import preflight, stages
from tasks import prepare_data as step
from tasks.core.foundations.records import SPLITS
from tasks.exchange.found import imported
from tasks.settings import params, steps
from tasks.store import manifests
from tasks.store.artifacts import Ref

LOGGER = logging.getLogger("vl_distillery")


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
    if not made.is_cached:
        _tell_splits(made)
        _warn_of_shared(made)
    return Refs(prepared=made)


def _tell_splits(made: Ref) -> None:
    """Say how many images and captions each split has, so that a wrong split is seen at once."""
    facts = dict[str, Any](manifests.read(made.folder, "num_images", "num_captions").facts)
    told = [
        f"{split} {facts['num_images'][split]} images with {facts['num_captions'][split]} captions"
        for split in SPLITS
    ]
    LOGGER.info("%s: %s", made.path, ", ".join(told))


def _warn_of_shared(made: Ref) -> None:
    """Say how many pictures two splits have."""
    from tasks.shared_pictures import shared

    found = shared(made.folder)
    if found:
        LOGGER.warning(
            "%s: %d pictures of val or test are those of another split too, and are used: %s; "
            "scores are too high by what students have seen; remove them from one of the splits",
            made.path,
            len(found),
            ", ".join(found[:3]),
        )


if __name__ == "__main__":
    cli.main("prepare_data")
