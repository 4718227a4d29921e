"""The options that every trajectory-matching method shares (METHOD 4); a method's `Config` extends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tasks.core.section import Range, Section

PerBudget = float | dict[int, float]


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(Section):
    """Options of the matching loop.

    Attributes:
        iterations: outer updates.
        syn_steps: student steps per iteration, T.
        expert_epochs: epochs of the expert that the student has to follow, R.
        max_start_epoch: start epochs are drawn from 0 .. max_start_epoch - 1.
        mini_batch_size: synthetic pairs per student step; larger than the set means the whole set.
        optimiser: `sgd` (the paper) or `adam`.
        momentum: of SGD; 0.5 in the paper.
        lr_img, lr_txt: outer step sizes of pixels and text embeddings, one number or one per budget {100: 1.0e+2}.
        lr_step_size: outer step size of log beta.
        step_size_img, step_size_txt: initial beta of the two groups.
        optimise: `both`, or one modality alone (ablation).
        init_image, init_text: `real` or `noise`.
        merge_branches: one ratio for both groups together (LoRS on COCO).
        is_dropout_on: dropout in the student steps, the same mask in forward and reverse.
        engine: gradient engine of `matching.py`, or `auto`: `double_backward` when the encoders are frozen (tiny
            networks, exact), otherwise `central_difference` (memory and speed of ordinary training).
        checkpoint_every: iterations between checkpoints.
    """

    iterations: Annotated[int, Range(ge=1)]
    syn_steps: Annotated[int, Range(ge=1, le=1000)]
    expert_epochs: Annotated[int, Range(ge=1)]
    max_start_epoch: Annotated[int, Range(ge=1)]
    mini_batch_size: Annotated[int, Range(ge=2, unit="pairs")]
    optimiser: Literal["sgd", "adam"]
    momentum: Annotated[float, Range(ge=0.0, lt=1.0)]
    lr_img: PerBudget
    lr_txt: PerBudget
    lr_step_size: Annotated[float, Range(ge=0.0, le=10.0)]
    step_size_img: Annotated[float, Range(gt=0.0, le=100.0)]
    step_size_txt: Annotated[float, Range(gt=0.0, le=100.0)]
    optimise: Literal["both", "image", "text"]
    init_image: Literal["real", "noise"]
    init_text: Literal["real", "noise"]
    merge_branches: bool
    is_dropout_on: bool
    engine: Literal["auto", "unroll", "double_backward", "forward_over_reverse", "central_difference", "tesla"]
    checkpoint_every: Annotated[int, Range(ge=1, unit="iterations")]

    def engine_for(self, is_encoder_frozen: bool) -> str:
        """Return the engine that `auto` stands for, or the one that was asked for."""
        if self.engine != "auto":
            return self.engine
        return "double_backward" if is_encoder_frozen else "central_difference"


def for_budget(value: PerBudget, num_pairs: int, name: str) -> float:
    """Return the value for one budget.

    Raises:
        ValueError: no entry for the budget, or a value that is not positive.
    """
    found = value.get(num_pairs) if isinstance(value, dict) else value
    if found is None or not 0.0 < found < float("inf"):
        raise ValueError(
            f"{name}: received {value!r} for {num_pairs} pairs; allowed is a positive number, or a mapping with one for every budget; "
            f"change {name} in the method's options in params.yaml"
        )
    return float(found)


def check_matching(config: MatchingConfig, num_epochs: int, budgets: tuple[int, ...], *, where: str) -> None:
    """Raise ValueError when the experts are too short for the method, or a budget has no step size."""
    needed = config.max_start_epoch - 1 + config.expert_epochs
    if needed > num_epochs:
        raise ValueError(
            f"{where}: max_start_epoch {config.max_start_epoch} and expert_epochs {config.expert_epochs} need experts of {needed} epochs; "
            f"train_experts.num_epochs is {num_epochs}; raise it or lower them"
        )
    for num_pairs in budgets:
        for name in ("lr_img", "lr_txt"):
            for_budget(getattr(config, name), num_pairs, f"{where}.{name}")
