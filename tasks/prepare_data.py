"""prepare_data: raw dataset -> memory-mapped images at encoder size, captions and splits as
Parquet.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks import stages
from tasks.progress import reporter
from tasks.settings.params import Params, Plugin
from tasks.steps import step
from tasks.store import artifacts, caching, raw_files
from tasks.store.artifacts import Key, Ref

STAGE = stages.STAGES["prepare_data"]


@step()
def prepare_data(params: Params, *, force: bool = False, accept_code: bool = False) -> Ref:
    """Return `data/prepared/<profile>`, built unless a valid one is there."""
    from tasks.core.data.preparation import prepare

    plugin = params.dataset
    raw, missing = _raw_digest(plugin)
    options = {name: value for name, value in asdict(plugin.config).items() if name != "path"}
    key = Key(
        STAGE.name,
        {"dataset": plugin.name, "options": options, **asdict(params.prepare_data)},
        raw,
        caching.code_digest([*STAGE.code, plugin.module_name]),
    )

    def build(work: Path) -> dict[str, Any]:
        section = params.prepare_data
        return prepare(
            plugin.module.examples(plugin.config),
            work,
            image_size=section.image_size,
            max_pixels=section.max_pixels,
            progress=reporter(f"prepare {params.profile}"),
        )

    folder = stages.folder(STAGE.name, params.space(STAGE.name))
    ref = caching.obtain(folder, key, build, force=force, accept_code=accept_code, missing=missing)
    _check_budgets(params, ref)
    return ref


def _raw_digest(plugin: Plugin) -> tuple[dict[str, str], FileNotFoundError | None]:
    """Return the digest of the raw data; or nothing and what is missing, on a machine that has the
    prepared dataset alone.
    """
    try:
        with raw_files.remembered() as digest_of:
            return {"raw": plugin.module.raw_digest(plugin.config, digest_of)}, None
    except FileNotFoundError as error:
        return {}, error


def _check_budgets(params: Params, prepared: Ref) -> None:
    """Refuse budgets larger than the training split before anything is trained."""
    facts = json.loads((prepared.folder / artifacts.MANIFEST).read_text())["facts"]
    largest, num_train = params.general.budgets[-1], facts["num_images"]["train"]
    if largest > num_train:
        raise ValueError(
            f"budgets: received {largest} pairs, but the training split of {params.profile} has "
            f"{num_train} images; allowed is at most "
            f"that; change profiles.{params.profile}.budgets in params.yaml"
        )
