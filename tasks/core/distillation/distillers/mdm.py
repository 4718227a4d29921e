"""MDM matches distributions of pairs on the sphere (CVPR 2026, arXiv 2605.23482).

A pair has the embeddings z_v and z_t. u = norm(z_v + z_t) says what both share, and g = norm(z_v -
z_t) what tells them apart. L = InfoNCE(synthetic) + w dist(u) + w dist(g). dist is the maximum mean
discrepancy of synthetic and real pairs, with the kernel exp(-arccos(a.b)^2 / 2 s^2).

The network of an iteration lies between a start and two experts. For each layer it is theta_0 +
blend t (D_1 + D_2) / 2, with their displacements D. t = 2c / (1 + c) is near 1 where they agree, c
their cosine; a negative c counts as 0.

We differ: the published code does not run, so this follows the description. Projections of experts
start from different weights here, and theta_0 is that of the first. The displacements of
projections then hardly agree, while those of a trained encoder do. The paper clips the gradient to
length 1; the outer step here is not clipped. Its start is k-means of both modalities, and its SGD
has momentum 0.5. No step sizes are learned: students take the recipe's.

Cost beside bi-trajectory matching: two batches through the network in place of the student steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from tasks.core.distillation.batch_method import BatchConfig, check_batches, embed_batches
from tasks.core.distillation.objective import Objective, RowsLoss
from tasks.core.distillation.run import Problem, method_of
from tasks.core.foundations.section import BatchSize, Range
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.student_step import Rows
from tasks.core.networks.functional import GROUPS, FlatModel, Theta
from tasks.core.training.losses import both_directions

_CLOSEST = 1.0 - 1e-6  # the cosine from which on arccos has no derivative worth its name
_LEAST = 1e-12


@dataclass(frozen=True, kw_only=True)
class Config(BatchConfig):
    """Options.

    The displacement of an expert is measured after `expert_epochs`.

    Attributes:
        blend: how far the network goes towards the experts.
        weight: w, of each of both distances.
        bandwidth: s of the kernel, in radians.
        real_batch_size: real pairs of an iteration; more than the split has means all.
    """

    blend: Annotated[float, Range(ge=0.0, le=2.0)]
    weight: Annotated[float, Range(ge=0.0, le=1000.0)]
    bandwidth: Annotated[float, Range(gt=0.0, le=10.0)]
    real_batch_size: BatchSize

    @property
    def min_experts(self) -> int:
        """See `OuterConfig`: a network lies between two."""
        return 2


check = check_batches


def objective(problem: Problem, config: Config, num_pairs: int) -> Objective:
    """Return the objective: a loss of the pairs themselves, without students."""
    return Objective(rows_loss=rows_loss(problem, config))


def rows_loss(problem: Problem, config: Config) -> RowsLoss:
    """Return the loss; half of both distances counts to each modality in the history."""
    real = problem.real_pairs()

    def loss(rows: Rows, iteration: int) -> tuple[Tensor, dict[str, float]]:
        draw = make_generator(problem.seed, "mdm", iteration)
        theta = _network(problem, config, draw)
        sizes = config.mini_batch_size, config.real_batch_size
        (img, txt), (real_img, real_txt) = embed_batches(
            problem, real, theta, rows, sizes=sizes, iteration=iteration, draw=draw
        )
        shared = distance(img + txt, real_img + real_txt, config.bandwidth)
        apart = distance(img - txt, real_img - real_txt, config.bandwidth)
        i2t, t2i = both_directions(img, txt, problem.tau)
        half = 0.5 * config.weight * (shared + apart)
        parts = 0.5 * i2t + half, 0.5 * t2i + half
        terms = {"loss_img": float(parts[0].detach()), "loss_txt": float(parts[1].detach())}
        return parts[0] + parts[1], terms

    return loss


def distance(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    """Return sqrt(mean k(A, A) + mean k(B, B) - 2 mean k(A, B)) of directions (N, d) and (R, d), a
    scalar.
    """
    a, b = normalize(a, dim=1), normalize(b, dim=1)

    def mean(one: Tensor, other: Tensor) -> Tensor:
        angles = (one @ other.T).clamp(-_CLOSEST, _CLOSEST).arccos()
        return torch.exp(-angles.square() / (2.0 * bandwidth**2)).mean()

    return (mean(a, a) + mean(b, b) - 2.0 * mean(a, b)).clamp(min=_LEAST).sqrt()


def between(flat: FlatModel, theta0: Theta, moves: tuple[Theta, Theta], blend: float) -> Theta:
    """Return theta_0 + blend t (D_1 + D_2) / 2 of each layer, t = 2c / (1 + c).

    Args:
        flat: knows the layers.
        moves: the displacements D_1 and D_2.
    """
    found = {}
    for group in GROUPS:
        sizes, parts = flat.layers(group), []
        for one, other in zip(*(move[group].split(sizes) for move in moves), strict=True):
            c = cosine_similarity(one, other, dim=0).clamp(min=0.0)
            parts.append(c / (1.0 + c) * (one + other))
        found[group] = theta0[group] + blend * torch.cat([theta0[group][:0], *parts])
    return found


def _network(problem: Problem, config: Config, draw: torch.Generator) -> Theta:
    """Draw two different experts, and return the network between them."""
    buffer = problem.buffer
    if buffer.num_experts < 2:
        raise ValueError(
            f"mdm takes the network between two experts; received {buffer.num_experts}; raise "
            "train_experts.num_experts"
        )
    first, second = torch.randperm(buffer.num_experts, generator=draw)[:2].tolist()
    moves = []
    for expert in (first, second):
        start, end = (buffer.snapshot(expert, epoch) for epoch in (0, config.expert_epochs))
        moves.append({group: end[group] - start[group] for group in GROUPS})
    theta0 = buffer.snapshot(first, 0)
    return between(problem.flat, theta0, (moves[0], moves[1]), config.blend)


distill = method_of(objective)
