"""Bi-trajectory matching (Wu et al., Vision-Language Dataset Distillation, TMLR 2024).

A student trained on the synthetic pairs with InfoNCE follows the image and the text trajectory of
an expert trained on all data; L = L_img + L_txt, each normalised by the expert's own way. We differ
from the published code where it differs from the paper: exact gradient (METHOD 5) instead of a
detached one, tau used as it is, one learned step size per group in evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tasks.core.distillation.matching_config import MatchingConfig, check_matching
from tasks.core.distillation.objective import Objective
from tasks.core.distillation.run import Distilled, Log, Problem, run
from tasks.core.hypergradient.student_step import Rows
from tasks.core.training.losses import info_nce


@dataclass(frozen=True, kw_only=True)
class Config(MatchingConfig):
    """Options.

    Attributes:
        include_positive: keep the positive in the denominator of the loss (the published numbers
            do). The loss is that of the matching students and of those that evaluation trains on
            the set; the experts' keeps it in any case (METHOD 6).
    """

    include_positive: bool


check = check_matching


def distill(
    problem: Problem,
    config: Config,
    num_pairs: int,
    *,
    tau: float,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> Distilled:
    """Distil `num_pairs` pairs; see `distillation.run`."""

    def student_loss(img: Tensor, txt: Tensor, rows: Rows) -> Tensor:
        return info_nce(img, txt, tau=tau, include_positive=config.include_positive)

    loss_name = "info_nce" if config.include_positive else "info_nce_without_positive"
    return run(
        problem,
        config,
        num_pairs,
        Objective(student_loss, loss_name),
        checkpoint=checkpoint,
        log=log,
    )
