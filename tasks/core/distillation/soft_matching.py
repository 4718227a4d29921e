"""Holds what LoRS and RepBlend share: options and objective of trajectory matching with a learned
similarity (METHOD 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from tasks.core.distillation.matching_config import (
    CountPerBudget,
    MatchingConfig,
    PerBudget,
    check_matching,
    for_budget,
)
from tasks.core.distillation.objective import Blend, Learnable, Objective
from tasks.core.distillation.run import Problem
from tasks.core.foundations.section import Range
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.trajectory import Rows
from tasks.core.training.eight_bits import Storage
from tasks.core.training.pair_set import Similarity
from tasks.core.training.similarity import initial_rows, similarity_of
from tasks.core.training.student_losses import soft_contrastive

# Of a pixel and of a value of a text, see `eight_bits.py`
_BYTES: dict[Storage, tuple[int, int]] = {"float32": (4, 4), "uint8": (1, 2)}


@dataclass(frozen=True, kw_only=True)
class SoftConfig(MatchingConfig):
    """Options beside those of all matching methods; the first three are one number or one per
    budget.

    Attributes:
        lr_sim: outer step size of the similarity.
        sim_rank: rank r of its off-diagonal part; it costs 2r + 1 floats a pair.
        sim_alpha: scale alpha of that part.
        is_budget_compensated: pay for it with one pair: a set named for M pairs then holds M - 1
            (LoRS: 99, 199, 499).
    """

    lr_sim: PerBudget
    sim_rank: CountPerBudget
    sim_alpha: Annotated[float, Range(gt=0.0)] | dict[int, Annotated[float, Range(gt=0.0)]]
    is_budget_compensated: bool


def check_soft(
    config: SoftConfig, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Raise ValueError where `check_matching` does, or when a budget has no value or would be left
    without two pairs. Also when a set cannot go on with the similarity of a smaller one.
    """
    check_matching(config, num_epochs, budgets, trainable=trainable, where=where)
    if config.weights != "none":
        raise ValueError(
            f"{where}.weights: received {config.weights!r}; a similarity weighs pairs already; "
            "allowed is none; change it there (it may come from distill.matching)"
        )
    own_sizes = [entry for entry in config.begin_with if isinstance(entry, int)]
    for name in ("sim_rank", "sim_alpha"):
        value = getattr(config, name)
        values = {for_budget(value, num_pairs, f"{where}.{name}") for num_pairs in budgets}
        if own_sizes and len(values) > 1:
            raise ValueError(
                f"{where}.{name}: received {value} with begin_with {own_sizes}; allowed is one "
                "value, since a set goes on with the similarity of a smaller one; change one of "
                "both (begin_with may come from distill.matching)"
            )
    for num_pairs in budgets:
        for_budget(config.lr_sim, num_pairs, f"{where}.lr_sim")
        if config.is_budget_compensated and num_pairs < 3:
            raise ValueError(
                f"{where}.is_budget_compensated: one of {num_pairs} pairs pays for the "
                "similarity, which leaves no mini-batch of 2; "
                "allowed are budgets of at least 3; set it false or change `budgets`"
            )


def soft_objective(
    problem: Problem,
    config: SoftConfig,
    num_pairs: int,
    loss: str,
    *,
    blend: Blend | None = None,
) -> Objective:
    """Return the objective: a soft loss whose similarity is learned from the identity on.

    Args:
        num_pairs: the budget.
        loss: one of `student_losses.SOFT`.
        blend: see `Objective`.

    Raises:
        ValueError: the similarity takes more bytes than the pair that pays for it.
    """
    rank = int(for_budget(config.sim_rank, num_pairs, "sim_rank"))
    alpha = for_budget(config.sim_alpha, num_pairs, "sim_alpha")
    num_returned = int(config.is_budget_compensated)
    # A row for each image that a student sees
    stored = (num_pairs - num_returned) * config.parts**2
    # The published tables compare sets by their size, so the similarity is paid with a pair
    if config.is_budget_compensated:
        _check_price(problem, config, (2 * rank + 1) * stored)
    lr = for_budget(config.lr_sim, num_pairs, "lr_sim")
    initial = initial_rows(stored, rank, make_generator(problem.seed, "similarity"))

    def student_loss(img: Tensor, txt: Tensor, rows: Rows) -> Tensor:
        return soft_contrastive(loss, img, txt, similarity_of(rows, alpha), tau=problem.tau)

    return Objective(
        student_loss,
        loss_name=loss,
        learnable={name: Learnable(rows, lr) for name, rows in initial.items()},
        similarity=lambda rows: Similarity.of(rows, alpha),
        blend=blend,
        num_pairs_returned=num_returned,
    )


def _check_price(problem: Problem, config: SoftConfig, num_floats: int) -> None:
    """Compare bytes: the similarity stays float32 where pictures and texts are stored in less."""
    size = config.picture_size or problem.image_size
    channels = problem.train.images.shape[3]
    num_texts = config.parts**2 * config.texts_per_image
    pixels, values = channels * size * size, num_texts * problem.train.text_embeds.shape[1]
    pixel_bytes, value_bytes = _BYTES[config.storage]
    pair, price = pixel_bytes * pixels + value_bytes * values, 4 * num_floats
    if price > pair:
        raise ValueError(
            f"the similarity takes {price} bytes, more than the pair of {pair} that "
            f"is_budget_compensated gives back for it (`storage: {config.storage}`); allowed is a "
            "smaller sim_rank, or is_budget_compensated: false; change the method's options in "
            "params.yaml"
        )
