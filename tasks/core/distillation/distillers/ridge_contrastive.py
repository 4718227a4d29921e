"""Ridge contrastive distillation solves its student and judges it by a contrastive loss on real
pairs (after CLP-DD, arXiv 2605.07194; FRePo, NeurIPS 2022; KIP, ICLR 2021).

The student maps image features X to texts Y by ridge regression on the synthetic pairs, in closed
form: M = X_s^T (X_s X_s^T + lambda I)^-1 Y_s, a system with a row for each pair. Real pairs have
the scores cos(x M, y) / tau. A second map goes from texts to images. L is the mean InfoNCE of both
on a batch of real pairs. Its gradient is exact, and no step of training is differentiated.

Students of evaluation are no linear maps. With `features: random` X is [p, GELU(p)] of a random
projection p, as a student starts with one. It is drawn anew in every iteration, for images and for
texts, so that pairs fit no single one. `plain` takes the features as they are. Either is centred by
the mean of the real batch.

We differ: CLP-DD and FRePo classify images. The form for pairs of image and text is ours. A squared
outer loss is much worse in the source, so it is no option. lambda is a share of the mean of the
diagonal of X_s X_s^T, as in FRePo. No step sizes are learned: students take the recipe's.

Cost beside bi-trajectory matching: no experts; one system of M rows in place of student steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, normalize

from tasks.core.distillation.feature_method import RealPairs, check_features, feature_method_of
from tasks.core.distillation.matching_config import OuterConfig, UpTo1000
from tasks.core.distillation.objective import RowsLoss
from tasks.core.distillation.run import Problem
from tasks.core.foundations.section import BatchSize, Count, Range
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.student_step import Rows
from tasks.core.networks.dual_encoder import Projection
from tasks.core.training.losses import both_directions


@dataclass(frozen=True, kw_only=True)
class Config(OuterConfig):
    """Options.

    Attributes:
        features: `random` or `plain`, see above.
        width: of the random projection p; the features are twice as wide. Means nothing for
            `plain`.
        draws_per_iteration: random projections that an outer update averages over, each with its
            own real batch. Further ones are cheap beside the pass through the encoder.
        ridge: lambda.
        tau: temperature of the outer loss.
        real_batch_size: real pairs of the outer loss, drawn anew in each iteration; more than the
            split has means all.
    """

    features: Literal["random", "plain"]
    width: Count
    draws_per_iteration: UpTo1000
    ridge: Annotated[float, Range(gt=0.0, le=1000.0)]
    tau: Annotated[float, Range(gt=0.0, le=10.0)]
    real_batch_size: BatchSize


check = check_features


def rows_loss(problem: Problem, config: Config, num_pairs: int, real: RealPairs) -> RowsLoss:
    """Return the loss; its terms are those of finding texts and of finding images."""

    def of_draw(rows: Rows, *names: int) -> tuple[Tensor, Tensor]:
        draw = make_generator(problem.seed, "ridge", *names)
        real_img, real_txt = real.sample(config.real_batch_size, draw)
        img, txt = rows["features"], rows["text_embeds"]
        lift_img = _lift(config, real_img, draw)
        lift_txt = _lift(config, real_txt, draw)
        img_mean, txt_mean = real_img.mean(0), real_txt.mean(0)
        found_txt = ridge_predictions(
            lift_img(img), txt - txt_mean, lift_img(real_img), config.ridge
        )
        found_img = ridge_predictions(
            lift_txt(txt), img - img_mean, lift_txt(real_txt), config.ridge
        )
        forth = _losses(found_txt, real_txt - txt_mean, config.tau)
        back = _losses(real_img - img_mean, found_img, config.tau)
        return 0.5 * (forth[0] + back[0]), 0.5 * (forth[1] + back[1])

    def loss(rows: Rows, iteration: int) -> tuple[Tensor, dict[str, float]]:
        parts = []
        for number in range(config.draws_per_iteration):
            parts.append(torch.stack(of_draw(rows, iteration, number)))
        i2t, t2i = 0.5 * torch.stack(parts).mean(0)
        return i2t + t2i, {"loss_img": float(i2t.detach()), "loss_txt": float(t2i.detach())}

    return loss


def ridge_predictions(inputs_s: Tensor, targets_s: Tensor, inputs: Tensor, ridge: float) -> Tensor:
    """Return inputs @ M with M = X_s^T (X_s X_s^T + lambda I)^-1 Y_s, (B, D), differentiable.

    Args:
        inputs_s, targets_s: X_s (M, F) and Y_s (M, D).
        inputs: (B, F).
        ridge: lambda as a share of the mean of the diagonal of X_s X_s^T.
    """
    gram = inputs_s @ inputs_s.T
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * eye, targets_s)
    return inputs @ inputs_s.T @ weights


def _lift(config: Config, real: Tensor, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return the map of rows to the student's inputs, centred by the mean of the real batch."""

    def plain(rows: Tensor) -> Tensor:
        return rows

    lift = plain
    if config.features == "random":
        fresh = Projection(real.shape[1], config.width, dropout=0.0, generator=draw)
        weight, bias = fresh.projection.weight.detach(), fresh.projection.bias.detach()

        def random(rows: Tensor) -> Tensor:
            p = linear(rows, weight.to(rows), bias.to(rows))
            return torch.cat([p, gelu(p)], dim=1)

        lift = random
    mean = lift(real).mean(0)
    return lambda rows: lift(rows) - mean


def _losses(img: Tensor, txt: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    return both_directions(normalize(img, dim=1), normalize(txt, dim=1), tau)


distill = feature_method_of(rows_loss)
