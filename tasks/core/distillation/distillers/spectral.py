"""Spectral matching makes the linear map of the synthetic pairs that of the real ones, from coarse
to fine. It follows UniDD (ICLR 2026, arXiv 2503.01212) and APM (ICML 2026).

The map is W_b = b_v b_l (S_v + b_v)^-1 C (S_l + b_l)^-1. C is the cross-covariance, S_v and S_l are
those within images and texts. L = |W_b real - W_b syn|^2 / |W_b real|^2 + lambda (distances of
means, divided by the mean variance). With large b W_b is C, and L is that of `cov_match`. With
small b it is least squares (CCA). b falls along b_end + (b_start - b_end) (1 + cos(pi t / T)) / 2.

We differ: the papers match one modality, for classification. The form for pairs of image and text
is ours, with one b as a multiple of the mean variance of each modality. We know the papers from
reviews alone. The factor b_v b_l only keeps the map finite. No step sizes are learned: students
take the recipe's.

Cost: that of `cov_match`, and one decomposition of each real covariance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from tasks.core.distillation.feature_method import RealPairs, check_features, feature_method_of
from tasks.core.distillation.matching_config import OuterConfig
from tasks.core.distillation.objective import RowsLoss
from tasks.core.distillation.run import Problem
from tasks.core.foundations.section import Range
from tasks.core.hypergradient.student_step import Rows
from tasks.core.training.covariances import Moments, RealMap, mean_terms, pair_map

# What float64 leaves of a variance of zero, as a share; numbers in float32 that differ give more
_ROUNDED = 1e-24
Ridge = Annotated[float, Range(ge=1e-6, le=1e9)]


@dataclass(frozen=True, kw_only=True)
class Config(OuterConfig):
    """Options.

    Attributes:
        b_start, b_end: of the ridge, as a multiple of the mean variance of each modality.
        mean_weight: lambda, of the distances between means.
    """

    b_start: Ridge
    b_end: Ridge
    mean_weight: Annotated[float, Range(ge=0.0, le=1000.0)]

    def b(self, iteration: int) -> float:
        """Return the ridge of an iteration."""
        fall = 0.5 * (1.0 + math.cos(math.pi * iteration / self.iterations))
        return self.b_end + (self.b_start - self.b_end) * fall


check = check_features


def rows_loss(problem: Problem, config: Config, num_pairs: int, real: RealPairs) -> RowsLoss:
    """Return the loss; half of the map's part counts to each modality in the history.

    Raises:
        ValueError: features or texts of the real pairs are constant, see `Moments.of`, or have
            nothing in common.
    """
    moments = Moments.of(real.features.double(), real.text_embeds.double(), real.owner)
    _check_common(moments)
    img_variance, txt_variance = (float(value) for value in moments.ridges(1.0))
    real_map = RealMap(moments)

    def loss(rows: Rows, iteration: int) -> tuple[Tensor, dict[str, float]]:
        features, text_embeds = rows["features"], rows["text_embeds"]
        b = config.b(iteration)
        target = real_map.at(b).to(features)
        found = pair_map(features, text_embeds, moments.ridges(b))
        off = (target - found).square().sum() / target.square().sum()
        img, txt = mean_terms(features, text_embeds, moments)
        img = 0.5 * off + config.mean_weight * img / img_variance
        txt = 0.5 * off + config.mean_weight * txt / txt_variance
        terms = {"loss_img": float(img.detach()), "loss_txt": float(txt.detach())}
        return img + txt, terms

    return loss


def _check_common(moments: Moments) -> None:
    """Refuse real pairs that the loss would divide by zero for."""
    total = float(moments.img.trace() * moments.txt.trace())
    common = float(moments.cross.square().sum())
    if common <= _ROUNDED * total:
        raise ValueError(
            "spectral: received image features and text embeddings of the training split that "
            f"have nothing in common (|C|^2 {common:g}); allowed are pairs whose texts say "
            "something of their images; change prepare_data, or leave spectral out of "
            "methods.distillers"
        )


distill = feature_method_of(rows_loss)
