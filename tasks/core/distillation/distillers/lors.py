"""LoRS, low-rank similarity mining (Xu et al., Low-Rank Similarity Mining for Multimodal Dataset
Distillation, ICML 2024).

Beside images and texts, a soft similarity S = diag(a) + (alpha / r) L R^T of every image with every
text is distilled. The student is trained against S, the experts with InfoNCE. We differ from the
published code in the gradient, which is exact here (METHOD 5) and detached there. Cost beside
bi-trajectory matching: (2r + 1) M floats, no time to speak of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from tasks.core.distillation.objective import Objective
from tasks.core.distillation.run import Distilled, Log, Problem, run
from tasks.core.distillation.soft_matching import SoftConfig, check_soft, soft_objective
from tasks.core.hypergradient.trajectory import Rows
from tasks.core.training.losses import info_nce


@dataclass(frozen=True, kw_only=True)
class Config(SoftConfig):
    """Options.

    Attributes:
        loss: `ence`, `bce` or `wbce` against S (METHOD 6); `info_nce` is the ablation without S,
            which is bi-trajectory matching: the options of the similarity then mean nothing, and no
            pair is given back.
    """

    loss: Literal["ence", "bce", "wbce", "info_nce"]


check = check_soft


def distill(
    problem: Problem,
    config: Config,
    num_pairs: int,
    *,
    tau: float,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> Distilled:
    """Distil a set of the budget `num_pairs`; see `distillation.run`."""

    def hard(img: Tensor, txt: Tensor, rows: Rows) -> Tensor:
        return info_nce(img, txt, tau=tau)

    objective = (
        Objective(hard)
        if config.loss == "info_nce"
        else soft_objective(problem, config, num_pairs, config.loss, tau=tau)
    )
    return run(problem, config, num_pairs, objective, checkpoint=checkpoint, log=log)
