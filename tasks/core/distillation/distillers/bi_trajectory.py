"""Bi-trajectory matching makes a student follow an expert (Wu et al., Vision-Language Dataset
Distillation, TMLR 2024).

An expert is trained on all data, a student on the synthetic pairs, both with InfoNCE. The student
has to follow the image and the text trajectory of the expert. L = L_img + L_txt, each divided by
the expert's own way.

We differ from the published code where it differs from the paper. The gradient is exact (METHOD 5)
instead of detached, tau is used as it is, and evaluation has one learned step size per group.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tasks.core.distillation.matching_config import MatchingConfig, check_matching
from tasks.core.distillation.objective import Objective
from tasks.core.distillation.run import Problem, method_of
from tasks.core.hypergradient.student_step import Rows
from tasks.core.training.pair_set import LOG_WEIGHTS
from tasks.core.training.student_losses import HARD


@dataclass(frozen=True, kw_only=True)
class Config(MatchingConfig):
    """Options.

    Attributes:
        include_positive: keep the positive in the denominator of the loss (the published numbers
            do). It holds for the students of matching and for those that evaluation trains on the
            set. The loss of experts always keeps the positive (METHOD 6).
    """

    include_positive: bool


check = check_matching


def objective(problem: Problem, config: Config, num_pairs: int) -> Objective:
    """Return the objective: InfoNCE, and the goal that every method has by itself."""
    name = "info_nce" if config.include_positive else "info_nce_without_positive"

    def student_loss(img: Tensor, txt: Tensor, rows: Rows) -> Tensor:
        return HARD[name](img, txt, tau=problem.tau, log_weights=rows.get(LOG_WEIGHTS))

    return Objective(student_loss, name, takes_weights=True)


distill = method_of(objective)
