"""Meta-model matching judges a student by its loss on real pairs, instead of an expert's trajectory
(Wang et al., Dataset Distillation, arXiv 1811.10959).

F = E_theta0 l(f(D^; theta0), D). The student is trained for T steps on the synthetic pairs, and
judged by the contrastive loss of a batch of real pairs. The pairs move along the exact dF (METHOD
5); published code unrolls or truncates.

A warm start by another method, bi-trajectory matching unless it is named, brings a set near. Long
student trainings (`syn_steps`, `student_momentum`) then go on from there. Cost beside bi-trajectory
matching: one forward and backward pass of the real batch for each goal. A trained encoder needs the
memory of the whole batch at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tasks.core.distillation.matching_config import (
    NO_SEGMENTS,
    LogStepSizeRate,
    MatchingConfig,
    PerBudget,
    StepSize,
    UpTo1000,
    check_matching,
    check_options,
    check_starts,
)
from tasks.core.distillation.objective import Goal, Objective, StudentLoss
from tasks.core.distillation.run import Distilled, Log, Problem, run
from tasks.core.distillation.segments import draw_snapshot
from tasks.core.foundations import plugins
from tasks.core.foundations.section import BatchSize, Count, Section
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.trajectory import Rows
from tasks.core.networks.functional import Theta
from tasks.core.training.losses import both_directions, info_nce
from tasks.core.training.pair_set import LOG_WEIGHTS

_NUM_STARTS = 1 << 31


@dataclass(frozen=True, kw_only=True)
class WarmStart(Section):
    """Bi-trajectory matching that comes first, with these in place of the method's own options; all
    others are shared.

    Attributes, beside those of `MatchingConfig`:
        step_size_scale: the student's first step sizes afterwards, as a multiple of those learned
        here: a few steps along a
            segment learn smaller ones than a whole training takes.
    """

    iterations: Count
    syn_steps: UpTo1000
    expert_epochs: Count
    max_start_epoch: Count
    goals_per_iteration: UpTo1000
    lr_img: PerBudget
    lr_txt: PerBudget
    lr_step_size: LogStepSizeRate
    step_size_img: StepSize
    step_size_txt: StepSize
    step_size_scale: StepSize


@dataclass(frozen=True, kw_only=True)
class NamedStart(Section):
    """A method that comes first, by its name.

    Attributes:
        method: its name; what of its set is no picture, text or step size is left behind.
        options: its own; those that it shares with this method and does not name have the values of
            here. `settings` turns them into the method's `Config`.
        step_size_scale: as in `WarmStart`; means nothing where the method learns no step sizes.
    """

    method: str
    options: Any
    step_size_scale: StepSize


@dataclass(frozen=True, kw_only=True)
class Config(MatchingConfig):
    """Options.

    No expert is matched, except in the warm start: the shared options of segments are for it.
    Beside it, `expert_epochs` means nothing, and with `fresh` students nor does `max_start_epoch`.
    They may have any value. `merge_branches`, `starts`, `num_phases`, `convex_epochs` and
    `distance` are for a warm start that matches trajectories, and refused without one.

    Attributes:
        real_batch_size: real pairs of the terminal loss, drawn anew for each goal; more than the
            split has means all.
        start_from: the student starts at an `expert`'s snapshot of epoch 0 .. max_start_epoch - 1,
            or `fresh`, with new projections on the pretrained encoder.
        warm_start: what makes the set that this goes on from: options of bi-trajectory matching,
            or another method by its name; null for initial pairs.
    """

    real_batch_size: BatchSize
    start_from: Literal["expert", "fresh"]
    warm_start: WarmStart | NamedStart | None

    @property
    def needs_experts(self) -> bool:
        """Whether one of both parts reads trajectories of experts."""
        if isinstance(self.warm_start, NamedStart) and self.warm_start.options.needs_experts:
            return True
        return self.start_from == "expert" or isinstance(self.warm_start, WarmStart)

    @property
    def total_iterations(self) -> int:
        """Outer updates of both parts."""
        if isinstance(self.warm_start, NamedStart):
            before: int = self.warm_start.options.total_iterations
            return self.iterations + before
        return self.iterations + (self.warm_start.iterations if self.warm_start else 0)

    @property
    def repeats(self) -> tuple[str, ...]:
        """Options that count iterations: those of both parts take different times."""
        if isinstance(self.warm_start, NamedStart):
            return ("iterations", "warm_start.options.iterations")
        return ("iterations", "warm_start.iterations") if self.warm_start else ("iterations",)

    def matching(self) -> MatchingConfig | None:
        """Return the options of a warm start by bi-trajectory matching."""
        if not isinstance(self.warm_start, WarmStart):
            return None
        options = {}
        for field in fields(MatchingConfig):
            # What the warm start does not name, it shares
            options[field.name] = getattr(self.warm_start, field.name, getattr(self, field.name))
        return MatchingConfig(**options)


def check(
    config: Config, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Raise ValueError when the experts, a budget or the trainable set do not fit the options."""
    check_options(config, budgets, trainable=trainable, where=where)
    if config.start_from == "expert":
        check_starts(config, num_epochs, where=where)
    matching, place = config.matching(), f"{where}.warm_start"
    if isinstance(config.warm_start, NamedStart):
        _check_shapes(config, config.warm_start, place)
        _check_named(config.warm_start, num_epochs, budgets, trainable=trainable, where=place)
        if not isinstance(config.warm_start.options, MatchingConfig):
            _check_unused(config, where)
    elif matching is None:
        _check_unused(config, where)
    else:
        check_matching(matching, num_epochs, budgets, trainable=trainable, where=place)


def _check_shapes(config: Config, start: NamedStart, where: str) -> None:
    """Refuse a named method that makes a set of another shape."""
    for name in ("texts_per_image", "parts", "picture_size", "begin_with"):
        wanted = getattr(config, name)
        # A method without such an option makes what meta_model asks for
        own = getattr(start.options, name, wanted)
        if own != wanted:
            received, allowed = json.dumps(own), json.dumps(wanted)
            raise ValueError(
                f"{where}.options.{name}: received {received}, and {allowed} for meta_model, which "
                f"goes on with the same set; allowed is {allowed}; change it there or in "
                "distill.matching"
            )


def _check_named(
    start: NamedStart, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Check a named method as if it stood alone, and refuse one that gives pairs back."""
    if getattr(start.options, "is_budget_compensated", False):
        raise ValueError(
            f"{where}.options.is_budget_compensated: received true; the set would have a pair less "
            "than meta_model goes on with; allowed is false; change it there"
        )
    check_of = getattr(plugins.load("distillers", start.method), "check", None)
    if check_of is not None:
        place = f"{where}.options"
        check_of(start.options, num_epochs, budgets, trainable=trainable, where=place)


def _check_unused(config: Config, where: str) -> None:
    """Refuse what would be ignored: an option of segments that nothing reads."""
    for name, allowed in NO_SEGMENTS.items():
        found = getattr(config, name)
        if found != allowed:
            raise ValueError(
                f"{where}.{name}: received {found}; meta_model without a warm_start that matches "
                "trajectories reads no segments of experts; allowed is "
                f"{json.dumps(allowed)}; change it there (it may come from distill.matching)"
            )


def distill(
    problem: Problem,
    config: Config,
    num_pairs: int,
    *,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> Distilled:
    """Distil `num_pairs` pairs; see `distillation.run`. Rows of the history say with
    `is_warm_start` which part they are of.
    """
    warm = _warm_start(problem, config, num_pairs, checkpoint=checkpoint, log=log)
    before = warm.history if warm else []

    def log_behind(row: dict[str, float], iteration: int) -> None:
        if log:
            log(row, len(before) + iteration)

    found = run(
        problem,
        _from(config, warm),
        num_pairs,
        _objective(problem, config),
        begin=warm,
        checkpoint=checkpoint,
        log=log_behind,
    )
    if warm is None:
        return found
    history = [{**row, "is_warm_start": 1.0} for row in before]
    history += [{**row, "is_warm_start": 0.0} for row in found.history]
    return replace(found, history=history)


def _warm_start(
    problem: Problem,
    config: Config,
    num_pairs: int,
    *,
    checkpoint: Path | None,
    log: Log | None,
) -> Distilled | None:
    # Of its own name: the second part goes on from its own checkpoint, once the first is done
    beside = checkpoint.with_name(f"{checkpoint.name}.warm_start") if checkpoint else None
    start = config.warm_start
    if problem.earlier is not None:
        # Its step sizes are those of the students that follow
        problem = replace(problem, earlier=replace(problem.earlier, step_sizes=None))
    if isinstance(start, NamedStart):
        method = plugins.load("distillers", start.method)
        found: Distilled = method.distill(
            problem, start.options, num_pairs, checkpoint=beside, log=log
        )
        return found
    matching = config.matching()
    if matching is None:
        return None
    objective = Objective(_student_loss(problem), takes_weights=True)
    return run(problem, matching, num_pairs, objective, checkpoint=beside, log=log)


def _from(config: Config, warm: Distilled | None) -> Config:
    """Return the options with the step sizes that a warm start learned."""
    if warm is None or config.warm_start is None or warm.pairs.step_sizes is None:
        return config
    scale = config.warm_start.step_size_scale
    return replace(
        config,
        step_size_img=scale * warm.pairs.step_sizes["img"],
        step_size_txt=scale * warm.pairs.step_sizes["txt"],
    )


def _student_loss(problem: Problem) -> StudentLoss:
    def student_loss(img: Tensor, txt: Tensor, rows: Rows) -> Tensor:
        return info_nce(img, txt, tau=problem.tau, log_weights=rows.get(LOG_WEIGHTS))

    return student_loss


def _objective(problem: Problem, config: Config) -> Objective:
    real = problem.real_pairs()

    def goal(iteration: int, draw: torch.Generator) -> Goal:
        if config.start_from == "expert":
            theta0 = problem.buffer.snapshot(*draw_snapshot(problem.buffer, config, draw))
        else:
            # Each goal of an iteration its own
            theta0 = problem.fresh_theta(int(torch.randint(_NUM_STARTS, (1,), generator=draw)))
        rows = torch.randperm(real.num_pairs, generator=draw)[: config.real_batch_size]
        images, text_embeds = real.take(
            rows, draw, make_generator(problem.seed, "augment", iteration)
        )

        def embed(theta: Theta) -> tuple[Tensor, Tensor]:
            return problem.flat.call(theta, images, text_embeds)

        def loss(theta: Theta) -> Tensor:
            return info_nce(*embed(theta), tau=problem.tau)

        def terms(theta: Theta) -> dict[str, float]:
            i2t, t2i = both_directions(*embed(theta), problem.tau)
            return {"loss_img": 0.5 * float(i2t), "loss_txt": 0.5 * float(t2i)}

        return Goal(theta0, loss, terms)

    return Objective(_student_loss(problem), goal=goal, takes_weights=True)
