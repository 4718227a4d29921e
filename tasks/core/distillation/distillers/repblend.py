"""RepBlend mixes the pairs of every student step (Zhang et al., Beyond Modality Collapse:
Representations Blending for Multimodal Dataset Distillation, NeurIPS 2025).

Both encoders are frozen and both projections matched, so that the two branches are alike (`heads`).
A mini-batch is mixed before the projections: f' = mu f + (1 - mu) f[perm], with mu ~ Beta(1, 1).
Image features and text embeddings share mu and the permutation. This keeps the embeddings of one
modality apart. The loss is one of LoRS (the paper's is wBCE), against the similarity of the unmixed
pairs. Evaluation mixes nothing. Cost: that of LoRS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from tasks.core.distillation.objective import Objective
from tasks.core.distillation.run import Problem, method_of
from tasks.core.distillation.soft_matching import SoftConfig, check_soft, soft_objective
from tasks.core.foundations.section import Choice
from tasks.core.training.student_losses import SOFT


@dataclass(frozen=True, kw_only=True)
class Config(SoftConfig):
    """Options: those of the soft similarity.

    Attributes:
        loss: `ence`, `bce` or `wbce` against S (METHOD 6).
    """

    loss: Annotated[str, Choice(*SOFT)]


def check(
    config: Config, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Raise ValueError for another trainable set than `heads`, or when the experts or a budget do
    not fit the options.
    """
    if trainable != "heads":
        raise ValueError(
            f"{where}: repblend mixes the features of frozen encoders and matches both "
            f"projections; received trainable {trainable!r}; "
            "allowed is `heads` (with embed_dim); change model.trainable, or take repblend out "
            "of methods.distillers"
        )
    check_soft(config, num_epochs, budgets, trainable=trainable, where=where)


def objective(problem: Problem, config: Config, num_pairs: int) -> Objective:
    """Return the objective: that of LoRS, on blended pairs."""
    return soft_objective(problem, config, num_pairs, config.loss, blend=mix)


distill = method_of(objective)


def mix(features: Tensor, text_embeds: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return features (B, F) and text embeddings (B, D), each row mixed with another one. Both have
    the same weight, which is uniform, as Beta(1, 1) is.
    """
    other = torch.randperm(len(features), generator=generator, device=generator.device)
    mu = torch.rand((), generator=generator, device=generator.device).to(features)
    return torch.lerp(features[other], features, mu), torch.lerp(
        text_embeds[other], text_embeds, mu
    )
