"""Bi-trajectory matching (Wu et al., Vision-Language Dataset Distillation, TMLR 2024).

A student trained on the synthetic pairs with InfoNCE follows the image and the text trajectory of
an expert trained on all data; L = L_img + L_txt, each normalised by the expert's own way. We differ
from the published code where it differs from the paper: exact gradient (METHOD 5) instead of a
detached one, tau used as it is, one learned step size per group in evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tasks.core.distillation.matching_config import MatchingConfig, check_matching
from tasks.core.distillation.objective import Objective
from tasks.core.distillation.run import Problem, method_of
from tasks.core.hypergradient.student_step import Rows
from tasks.core.training.student_losses import HARD


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


def objective(problem: Problem, config: Config, num_pairs: int, tau: float) -> Objective:
    """Return the objective: InfoNCE, and the goal that every method has by itself."""
    name = "info_nce" if config.include_positive else "info_nce_without_positive"

    def student_loss(img: Tensor, txt: Tensor, rows: Rows) -> Tensor:
        return HARD[name](img, txt, tau=tau)

    return Objective(student_loss, name)


distill = method_of(objective)
