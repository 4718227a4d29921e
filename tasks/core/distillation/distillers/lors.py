"""LoRS distils a low-rank similarity beside the pairs (Xu et al., Low-Rank Similarity Mining for
Multimodal Dataset Distillation, ICML 2024).

The similarity S = diag(a) + (alpha / r) L R^T says how much every image belongs to every text. The
student is trained against S, the experts with InfoNCE. The gradient is exact here (METHOD 5), and
detached in the published code. Cost beside bi-trajectory matching: (2r + 1) M floats, no time to
speak of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from tasks.core.distillation.objective import Objective
from tasks.core.distillation.run import Problem, method_of
from tasks.core.distillation.soft_matching import SoftConfig, check_soft, soft_objective
from tasks.core.foundations.section import Choice
from tasks.core.hypergradient.trajectory import Rows
from tasks.core.training.losses import info_nce
from tasks.core.training.student_losses import SOFT


@dataclass(frozen=True, kw_only=True)
class Config(SoftConfig):
    """Options.

    Attributes:
        loss: `ence`, `bce` or `wbce` against S (METHOD 6). `info_nce` is the ablation without S,
            which is bi-trajectory matching. The options of the similarity then mean nothing, and no
            pair is given back.
    """

    loss: Annotated[str, Choice(*SOFT, "info_nce")]


check = check_soft


def objective(problem: Problem, config: Config, num_pairs: int) -> Objective:
    """Return the objective: a loss against S, which is learned too, or InfoNCE without S."""
    if config.loss != "info_nce":
        return soft_objective(problem, config, num_pairs, config.loss)

    def student_loss(img: Tensor, txt: Tensor, rows: Rows) -> Tensor:
        return info_nce(img, txt, tau=problem.tau)

    return Objective(student_loss)


distill = method_of(objective)
