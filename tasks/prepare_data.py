"""prepare_data: raw dataset -> memory-mapped images at encoder size, captions and splits as
Parquet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import keys
from tasks.progress import reporter
from tasks.settings.steps import Preparation
from tasks.step import step
from tasks.store import caching, manifests
from tasks.store.artifacts import Ref


@step()
def prepare_data(work: Preparation, *, force: bool = False, accept_code: bool = False) -> Ref:
    """Return `data/prepared/<profile>`, built unless a valid one is there."""
    from tasks.core.data.left_out import LeftOut
    from tasks.core.data.preparation import prepare

    key, missing = keys.of_prepared(work)

    def build(place: Path) -> dict[str, Any]:
        # A dataset that is drawn, such as the toy one, has no folder
        root = getattr(work.dataset.config, "path", None)
        left_out = LeftOut(work.section.max_left_out, root)
        return prepare(
            work.dataset.module.examples(work.dataset.config, left_out),
            place,
            image_size=work.section.image_size,
            max_pixels=work.section.max_pixels,
            left_out=left_out,
            progress=reporter(f"prepare_data {work.folder.name}"),
        )

    ref = caching.obtain(
        work.folder,
        key,
        build,
        force=force,
        accept_code=accept_code,
        missing=missing,
        is_unchanged=lambda: keys.of_prepared(work) == (key, None),
    )
    # Here, not when a coreset is selected: experts would have been trained for nothing
    _check_budgets(work, ref)
    return ref


def _check_budgets(work: Preparation, prepared: Ref) -> None:
    """Refuse sets of more images than the training split has before anything is trained."""
    facts = manifests.read(prepared.folder, "num_images").facts
    largest, num_train = work.budgets[-1], facts["num_images"]["train"]
    if largest > num_train:
        raise ValueError(
            f"budgets: received {largest} pairs, but the training split of {work.folder.name} has "
            f"{num_train} images; allowed is at most that; change `budgets` of the profile in "
            "params.yaml"
        )
    for method, needed in work.starts.items():
        if needed > num_train:
            raise ValueError(
                f"parts: received a set of {largest} pairs whose pictures have parts, by {method}; "
                f"it starts from {needed} images, and the training split of {work.folder.name} has "
                f"{num_train}; allowed is at most that; change `parts` in the method's options, or "
                "`budgets`, in params.yaml"
            )
