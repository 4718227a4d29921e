"""CovMatch makes the cross-covariance of the synthetic pairs that of the real ones (CovMatch,
NeurIPS 2025, arXiv 2510.18583).

C is the cross-covariance of features and texts. With linear heads G_v and G_l the linearised
contrastive loss is -Tr(G_v C G_l^T) + rho/2 |G_v^T G_l|^2. It is least at G_v^T G_l = C / rho. So
students of both sets agree where L = |rho C_real - C_syn|^2 + lambda (|mean_real - mean_syn|^2, of
images and of texts) is 0.

We differ, since the encoders are frozen. C_real is one constant over all pairs of the training
split, and no loss is estimated from batches. The paper trains encoders online, one step on a real
batch after each outer step. It learns token embeddings, where we learn sentence embeddings. Its
settings are those of the profiles `flickr30k` and `coco`: SGD 1.0 with momentum 0.5, rho 2 for 100
pairs and 1 above, lambda 0.1. No step sizes are learned: students take the recipe's.

Cost beside bi-trajectory matching: no experts, no student steps; one pass through the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tasks.core.distillation.feature_method import RealPairs, check_features, feature_method_of
from tasks.core.distillation.matching_config import OuterConfig, PerBudget, for_budget
from tasks.core.distillation.objective import RowsLoss
from tasks.core.distillation.run import Problem
from tasks.core.hypergradient.student_step import Rows
from tasks.core.training.covariances import Moments, mean_terms, pair_cross


@dataclass(frozen=True, kw_only=True)
class Config(OuterConfig):
    """Options.

    Attributes:
        rho: C_syn is to be rho times C_real; above 1 the synthetic pairs are farther apart than
            real ones. One number or one per budget.
        mean_weight: lambda, of the distances between means; likewise. 0 leaves them out.
    """

    rho: PerBudget
    mean_weight: PerBudget


def check(
    config: Config, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Raise ValueError when a budget has no outer step size, rho or lambda."""
    check_features(config, num_epochs, budgets, trainable=trainable, where=where)
    for num_pairs in budgets:
        for_budget(config.rho, num_pairs, f"{where}.rho")
        for_budget(config.mean_weight, num_pairs, f"{where}.mean_weight", is_zero_allowed=True)


def rows_loss(problem: Problem, config: Config, num_pairs: int, real: RealPairs) -> RowsLoss:
    """Return the loss; half of the covariance's part counts to each modality in the history."""
    moments = Moments.of(real.features, real.text_embeds, real.owner)
    target = for_budget(config.rho, num_pairs, "rho") * moments.cross
    weight = for_budget(config.mean_weight, num_pairs, "mean_weight", is_zero_allowed=True)

    def loss(rows: Rows, iteration: int) -> tuple[Tensor, dict[str, float]]:
        features, text_embeds = rows["features"], rows["text_embeds"]
        cross = (target - pair_cross(features, text_embeds)).square().sum()
        img, txt = mean_terms(features, text_embeds, moments)
        img, txt = 0.5 * cross + weight * img, 0.5 * cross + weight * txt
        terms = {"loss_img": float(img.detach()), "loss_txt": float(txt.detach())}
        return img + txt, terms

    return loss


distill = feature_method_of(rows_loss)
