"""RAHA aligns pairs in hyperbolic space, and most where images and texts of real pairs vary
together (Rank-Aware Hyperbolic Alignment, ECCV 2026, arXiv 2606.29464).

L = hITC + w_range L_range + w_residual L_residual. hITC is InfoNCE of the synthetic pairs, with the
logits -d(h_v, h_t) / tau. h = sinh(sqrt(c)|z|) z / (sqrt(c)|z|) lies on the hyperboloid of the
curvature -c, and d is the geodesic distance there. L_range and L_residual match who is relevant to
whom in two subspaces, see `relevance.py`. L_range adds max(0, 1 - e_syn / e_real): the range keeps
its energy. L_residual adds w_compression (r + max(0, r - 1)), with r = residual energy / e_syn.

The paper goes back from the hyperboloid to the tangent space of its origin before the covariance.
That undoes the way there, so both subspaces are those of z itself.

We differ. The paper trains its encoders while it distils: one step on a real batch after each outer
step, anew after 50. Here the network of an iteration is a random expert after 0 .. `expert_epochs`
epochs. It learns token embeddings, where we learn sentence embeddings. Of the published code we
take the energy as a mean square; it divides the logits of a relevance by tau_r twice, and
multiplies the divergence by tau_r^2. Here they are divided once, as the description says. No step
sizes are learned: students take the recipe's.

Cost beside bi-trajectory matching: two batches through the network in place of the student steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

from tasks.core.distillation.batch_method import BatchConfig, check_batches, embed_batches
from tasks.core.distillation.objective import Objective, RowsLoss
from tasks.core.distillation.relevance import energy_of, matching, range_of
from tasks.core.distillation.run import Problem, method_of
from tasks.core.foundations.section import Range
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.student_step import Rows

_NEAREST = 1.0 + 1e-6  # from here on arcosh has a derivative worth its name
_LEAST = 1e-12

Weight = Annotated[float, Range(ge=0.0, le=1000.0)]


@dataclass(frozen=True, kw_only=True)
class Config(BatchConfig):
    """Options. The mini-batch of real pairs is as large as that of synthetic ones.

    Attributes:
        curvature: c; near 0 the distance is that of Euclid.
        energy: rho, the share of the squared cross-covariance that the range holds.
        range_weight, residual_weight: of the two subspaces.
        compression_weight: of what keeps the residual small, inside L_residual.
        relevance_tau: temperature tau_r of relevances.
        entropy: of the transport, in units of the mean cost.
    """

    curvature: Annotated[float, Range(gt=0.0, le=10.0)]
    energy: Annotated[float, Range(gt=0.0, le=1.0)]
    range_weight: Weight
    residual_weight: Weight
    compression_weight: Weight
    relevance_tau: Annotated[float, Range(gt=0.0, le=10.0)]
    entropy: Annotated[float, Range(gt=0.0, le=10.0)]


check = check_batches


def objective(problem: Problem, config: Config, num_pairs: int) -> Objective:
    """Return the objective: a loss of the pairs themselves, without students."""
    return Objective(rows_loss=rows_loss(problem, config))


distill = method_of(objective)


def rows_loss(problem: Problem, config: Config) -> RowsLoss:
    """Return the loss; half of both subspaces counts to each modality in the history."""
    real_pairs = problem.real_pairs()

    def loss(rows: Rows, iteration: int) -> tuple[Tensor, dict[str, float]]:
        draw = make_generator(problem.seed, "raha", iteration)
        expert = int(torch.randint(problem.buffer.num_experts, (1,), generator=draw))
        epoch = int(torch.randint(config.expert_epochs + 1, (1,), generator=draw))
        # Relevances of both sides have as many rows and columns
        num_images = len(rows["features"] if "features" in rows else rows["images"])
        size = min(config.mini_batch_size, num_images, real_pairs.num_pairs)
        synthetic, real = embed_batches(
            problem,
            real_pairs,
            problem.buffer.snapshot(expert, epoch),
            rows,
            sizes=(size, size),
            iteration=iteration,
            draw=draw,
        )
        i2t, t2i = hyperbolic_losses(*synthetic, tau=problem.tau, curvature=config.curvature)
        half = 0.5 * subspace_loss(config, synthetic, real)
        parts = 0.5 * i2t + half, 0.5 * t2i + half
        terms = {"loss_img": float(parts[0].detach()), "loss_txt": float(parts[1].detach())}
        return parts[0] + parts[1], terms

    return loss


def subspace_loss(
    config: Config, synthetic: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]
) -> Tensor:
    """Return w_range L_range + w_residual L_residual of images and texts (B, d), a scalar."""
    with torch.no_grad():
        shared = range_of(*real, config.energy)
    how = {"tau": config.relevance_tau, "entropy": config.entropy}
    inside, outside = shared.inside(*synthetic), shared.outside(*synthetic)
    wanted = energy_of(*shared.inside(*real)).clamp(min=_LEAST)
    held = energy_of(*inside)
    ratio = energy_of(*outside) / held.clamp(min=_LEAST)
    in_range = matching(inside, shared.inside(*real), **how) + relu(1.0 - held / wanted)
    compression = config.compression_weight * (ratio + relu(ratio - 1.0))
    in_residual = matching(outside, shared.outside(*real), **how) + compression
    return config.range_weight * in_range + config.residual_weight * in_residual


def hyperbolic_losses(
    img: Tensor, txt: Tensor, *, tau: float, curvature: float
) -> tuple[Tensor, Tensor]:
    """Return the contrastive losses of images to texts and of texts to images, two scalars."""
    logits = -distances(img, txt, curvature) / tau
    diagonal = torch.arange(len(img), device=img.device)
    return cross_entropy(logits, diagonal), cross_entropy(logits.T, diagonal)


def distances(a: Tensor, b: Tensor, curvature: float) -> Tensor:
    """Return the geodesic distances (N, M) of vectors (N, d) and (M, d), lifted to the
    hyperboloid.
    """
    root = curvature**0.5
    a_space, a_time = _lift(a, root)
    b_space, b_time = _lift(b, root)
    inner = a_space @ b_space.T - a_time[:, None] * b_time
    return (-inner).clamp(min=_NEAREST).arccosh() / root


def _lift(values: Tensor, root: float) -> tuple[Tensor, Tensor]:
    """Return the point of each vector (N, d): sqrt(c) times its space and its time."""
    length = root * values.norm(dim=1).clamp(min=_LEAST)
    return (length.sinh() / length)[:, None] * root * values, length.cosh()
