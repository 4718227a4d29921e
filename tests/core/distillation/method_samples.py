"""Options of each method on the tiny problem, and how tests run one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks.core.distillation.distillers import (
    cov_match,
    lors,
    mdm,
    meta_model,
    raha,
    repblend,
    ridge_contrastive,
    spectral,
)
from tasks.core.distillation.matching_config import OuterConfig
from tasks.core.distillation.run import Distilled, Log, Problem
from tests.core.hypergradient.small_problem import MATCHING

SOFT: dict[str, Any] = {
    "lr_sim": 0.02,
    "sim_rank": 2,
    "sim_alpha": 1.0,
    "is_budget_compensated": False,
}
LORS = lors.Config(**MATCHING, **SOFT, loss="wbce")
REPBLEND = repblend.Config(**MATCHING, **SOFT, loss="wbce")
OUTER: dict[str, Any] = {
    field.name: MATCHING[field.name] for field in dataclasses.fields(OuterConfig)
}
COV = cov_match.Config(**OUTER, rho=2.0, mean_weight=0.1)
SPECTRAL = spectral.Config(**OUTER, b_start=10.0, b_end=0.1, mean_weight=0.1)
RIDGE = ridge_contrastive.Config(
    **OUTER,
    features="random",
    width=9,
    draws_per_iteration=1,
    ridge=0.1,
    tau=0.07,
    real_batch_size=16,
)
MDM = mdm.Config(
    **OUTER,
    expert_epochs=2,
    blend=0.5,
    weight=0.8,
    bandwidth=0.5,
    mini_batch_size=5,
    real_batch_size=16,
)
RAHA = raha.Config(
    **OUTER,
    expert_epochs=2,
    mini_batch_size=5,
    curvature=1.0,
    energy=0.9,
    range_weight=0.8,
    residual_weight=0.4,
    compression_weight=0.1,
    relevance_tau=0.3,
    entropy=0.05,
)
META = meta_model.Config(**MATCHING, real_batch_size=16, start_from="expert", warm_start=None)
WARM = meta_model.WarmStart(
    iterations=6,
    syn_steps=3,
    expert_epochs=1,
    max_start_epoch=1,
    goals_per_iteration=2,
    lr_img=0.02,
    lr_txt=0.01,
    lr_step_size=0.01,
    step_size_img=0.05,
    step_size_txt=0.06,
    step_size_scale=2.0,
)


class Killed(Exception):
    """What a test raises in the middle of a run."""


def run_method(
    module: ModuleType,
    problem: Problem,
    config: Any,
    num_pairs: int = 6,
    checkpoint: Path | None = None,
    log: Log | None = None,
    **changes: Any,
) -> Distilled:
    """Distil with a method's options, some of them changed."""
    config = dataclasses.replace(config, **changes)
    found: Distilled = module.distill(problem, config, num_pairs, checkpoint=checkpoint, log=log)
    return found


def resumed(run: Callable[..., Distilled], file: Path, at: int = 8) -> Distilled:
    """Kill a run in the iteration `at`, and return what it gives when it goes on.

    Args:
        run: takes `checkpoint` and `log`.
        file: its checkpoint.
    """

    def kill(row: dict[str, float], iteration: int) -> None:
        if iteration == at:
            raise Killed

    with pytest.raises(Killed):
        run(checkpoint=file, log=kill)
    return run(checkpoint=file)


def mean_loss(rows: list[dict[str, float]]) -> float:
    """The mean loss of rows of a history."""
    return sum(row["loss"] for row in rows) / len(rows)
