"""The outer iterations of stage 2 (METHOD 4): draw a goal, train a student on the synthetic pairs,
move them along the gradient.

Every draw is named by (seed, iteration). Images under optimisation are pixels, or with a frozen
encoder its features of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.matching_config import MatchingConfig
from tasks.core.distillation.objective import Goal, Objective
from tasks.core.distillation.outer_checkpoint import write
from tasks.core.distillation.outer_guard import Guard
from tasks.core.distillation.outer_state import OuterState
from tasks.core.distillation.segments import draw_segment
from tasks.core.distillation.views import ViewFeatures
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import (
    Gradient,
    LossFn,
    Rows,
    mean_gradient,
    trajectory_gradient,
)
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.functional import FlatModel, Theta

Log = Callable[[dict[str, float], int], None]


@dataclass(frozen=True)
class Problem:
    """What stage 2 works on.

    Attributes:
        flat: the dual encoder as a function of flat vectors, on the device of the computation.
        encoder: image encoder and normalisation.
        train: training split.
        buffer: expert trajectories of the same encoder and trainable set.
        is_encoder_frozen: run the student on features and pull the gradient back to pixels (METHOD
            5, `heads`).
        seed: of every draw.
        fresh_start: theta_0 of a fresh student (pretrained encoder, new projections) of a number.
    """

    flat: FlatModel
    encoder: ImageEncoder
    train: Split
    buffer: Buffer
    is_encoder_frozen: bool
    seed: int
    fresh_start: Callable[[int], Theta]


def iterate(
    problem: Problem,
    config: MatchingConfig,
    guard: Guard,
    objective: Objective,
    *,
    checkpoint: Path | None,
    log: Log | None,
) -> None:
    """Move the state of `guard` in place until it has done `config.iterations`.

    Args:
        checkpoint: file written every `config.checkpoint_every` iterations and after the last one,
            for what comes after it; None writes nothing.
        log: called with the history row and the iteration (0-based) after each iteration.

    Raises:
        ValueError: the loss or a step size stopped being finite twice, see `Guard.update`.
    """
    state = guard.state
    still = _still_features(problem, config, state)
    while state.iteration < config.iterations:
        iteration = state.iteration
        found, terms = _gradient(problem, config, state, objective, still)
        row = {"loss": found.loss, **terms}
        for group, size in state.step_sizes().items():
            row[f"step_size_{group}"] = size
        if not guard.update(found, row):
            continue  # rolled back: this iteration comes again
        if log:
            log(state.history[-1], iteration)
        if state.iteration % config.checkpoint_every == 0 or state.iteration == config.iterations:
            write(checkpoint, guard)


@dataclass(frozen=True)
class _Draw:
    """One goal of an iteration and the mini-batches on the way to it; `names` tell its random
    numbers from those of other goals.
    """

    goal: Goal
    batches: list[Tensor]
    names: tuple[int, ...]


def _still_features(problem: Problem, config: MatchingConfig, state: OuterState) -> Tensor | None:
    """Return the features of images that no iteration changes, computed once; None where images
    change or the encoder does.

    They are as of `ViewFeatures.values`; students see the same views in all iterations.
    """
    images = state.rows()["images"]
    if not problem.is_encoder_frozen or config.optimise != "text" or images.ndim != 4:
        return None
    return _views(problem, config, images, torch.arange(len(images), device=images.device)).values


def _views(
    problem: Problem, config: MatchingConfig, images: Tensor, used: Tensor, *names: int
) -> ViewFeatures:
    return ViewFeatures(
        problem.encoder.module,
        images,
        used,
        num_views=config.num_views,
        micro_batch=config.micro_batch,
        draw=lambda number: make_generator(problem.seed, "view", number, *names),
    )


def _gradient(
    problem: Problem,
    config: MatchingConfig,
    state: OuterState,
    objective: Objective,
    still: Tensor | None,
) -> tuple[Gradient, dict[str, float]]:
    """Differentiate the mean terminal loss of this iteration's goals; also the mean of its terms,
    for the history.

    Features of images are computed and pulled back to pixels once for all goals, with new views in
    every iteration; `still` are those that never change.
    """
    rows, frozen = state.rows(), None
    draws = [
        _draw(problem, config, state, objective, index)
        for index in range(config.goals_per_iteration)
    ]
    if still is not None:
        rows["images"] = still
    elif problem.is_encoder_frozen and rows["images"].ndim == 4:
        used = torch.cat([batch for draw in draws for batch in draw.batches])
        frozen = _views(problem, config, rows["images"], used, state.iteration)
        rows["images"] = frozen.values
    parts = [_gradient_of(problem, config, state, objective, draw, rows) for draw in draws]
    found = mean_gradient([gradient for gradient, _ in parts])
    if frozen is not None:
        found.inputs["images"] = frozen.pull_back(found.inputs["images"])
    return found, {
        name: sum(terms[name] for _, terms in parts) / len(parts) for name in parts[0][1]
    }


def _draw(
    problem: Problem, config: MatchingConfig, state: OuterState, objective: Objective, index: int
) -> _Draw:
    names = (index,) if index else ()  # the first goal draws what the only one would
    draw = make_generator(problem.seed, "iteration", state.iteration, *names)
    goal = (
        objective.goal(state.iteration, draw)
        if objective.goal
        else draw_segment(problem.buffer, config, draw)
    )
    batches = draw_batches(state.num_pairs, state.batch_size, config.syn_steps, draw)
    return _Draw(goal, [batch.to(problem.flat.device) for batch in batches], names)


def _gradient_of(
    problem: Problem,
    config: MatchingConfig,
    state: OuterState,
    objective: Objective,
    draw: _Draw,
    rows: Rows,
) -> tuple[Gradient, dict[str, float]]:
    is_frozen = problem.is_encoder_frozen
    inputs, constants = _split_rows(config, rows)
    found = trajectory_gradient(
        _loss_fn(problem, config, objective, state.iteration, draw.names),
        draw.goal.start, inputs, draw.batches, state.logs(), draw.goal.loss,
        engine=config.engine,
        momentum=config.student_momentum,
        constants=constants,
        encode=None if is_frozen else problem.flat.encode,
        micro_batch=None if is_frozen else config.micro_batch,
        is_theta_on_host=config.is_theta_on_host,
    )  # fmt: skip
    with torch.no_grad():
        return found, draw.goal.terms(found.theta)


def _loss_fn(
    problem: Problem,
    config: MatchingConfig,
    objective: Objective,
    iteration: int,
    names: tuple[int, ...],
) -> LossFn:
    """The student's loss in one step: blend, dropped features, projections, the method's loss;
    every call draws the same.
    """
    device = problem.flat.device

    def loss_fn(theta: Theta, rows: Rows, step: int) -> Tensor:
        features, texts = rows["images"], rows["texts"]
        if features.ndim == 3:
            viewing = make_generator(problem.seed, "views", iteration, step, *names, device=device)
            chosen = torch.randint(
                features.shape[1], (len(features),), generator=viewing, device=device
            )
            features = features[torch.arange(len(features), device=device), chosen]
        if objective.blend is not None:
            mixing = make_generator(problem.seed, "blend", iteration, step, *names, device=device)
            features, texts = objective.blend(features, texts, mixing)
        if config.feature_dropout:
            dropping = make_generator(
                problem.seed, "feature_dropout", iteration, step, *names, device=device
            )
            features = _drop(features, config.feature_dropout, dropping)
        masks = (
            make_generator(problem.seed, "dropout", iteration, step, *names, device=device)
            if config.is_dropout_on
            else None
        )
        return objective.student_loss(*problem.flat.call(theta, features, texts, masks), rows)

    return loss_fn


def _drop(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(features.shape, generator=generator, device=features.device) >= share
    return features * kept.to(features) / (1.0 - share)


def _split_rows(config: MatchingConfig, rows: Rows) -> tuple[Rows, Rows]:
    """Rows that are differentiated, and rows that stay as they are (single-modality ablations);
    further ones are learned.
    """
    still = {"both": (), "image": ("texts",), "text": ("images",)}[config.optimise]
    return {n: v for n, v in rows.items() if n not in still}, {
        n: v for n, v in rows.items() if n in still
    }
