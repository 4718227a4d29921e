"""Does the outer iterations of stage 2 (METHOD 4): draw a goal, train a student on the synthetic
pairs, move them along the gradient. A method without students gives the loss of the pairs itself.

Every draw is named by (seed, iteration). What is optimised are pixels; with a frozen encoder the
students see its features of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.matching_config import MatchingConfig, OuterConfig
from tasks.core.distillation.objective import Goal, Objective
from tasks.core.distillation.outer_checkpoint import write
from tasks.core.distillation.outer_guard import Guard
from tasks.core.distillation.outer_state import OuterState
from tasks.core.distillation.segments import segment_goals
from tasks.core.distillation.views import ViewFeatures
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.second_order import gradient, leaves
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import (
    Gradient,
    LossFn,
    Rows,
    mean_gradient,
    trajectory_gradient,
)
from tasks.core.networks.dual_encoder import drop
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.functional import FlatModel, Theta
from tasks.core.training.augment import AS_STORED
from tasks.core.training.pair_set import PairSet
from tasks.core.training.parts import pull_back_parts, split_parts
from tasks.core.training.split_pairs import SplitPairs

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
        tau: temperature of the similarity.
        fresh_theta: theta_0 of a fresh student (pretrained encoder, new projections) of a number.
        earlier: the finished set that a larger one begins with, see `earlier_pairs.py`.
    """

    flat: FlatModel
    encoder: ImageEncoder
    train: Split
    buffer: Buffer
    is_encoder_frozen: bool
    seed: int
    tau: float
    fresh_theta: Callable[[int], Theta]
    earlier: PairSet | None = None

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that students see."""
        return int(self.train.images.shape[1])

    def real_pairs(self) -> SplitPairs:
        """Return the images of the training split as they are stored, or their features, each with
        one of its captions.
        """
        return SplitPairs(self.train, self.encoder, AS_STORED, device=self.flat.device)


def iterate(
    problem: Problem,
    config: OuterConfig,
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
    if objective.goal is None and isinstance(config, MatchingConfig):
        segments = segment_goals(problem.flat, problem.buffer, config)
        objective = replace(objective, goal=segments)
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


def _still_features(problem: Problem, config: OuterConfig, state: OuterState) -> Rows:
    """Return the features or views of images, where no iteration changes images or encoder; else
    nothing.

    Students see the same views in all iterations.
    """
    if not problem.is_encoder_frozen or config.optimise != "text":
        return {}
    images = split_parts(state.rows()["images"], config.parts, problem.image_size)
    every = torch.arange(len(images), device=images.device)
    found = _views(problem, config, images, every)
    return {found.name: found.values}


def _views(
    problem: Problem, config: OuterConfig, images: Tensor, used: Tensor, *names: int
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
    config: OuterConfig,
    state: OuterState,
    objective: Objective,
    still: Rows,
) -> tuple[Gradient, dict[str, float]]:
    """Return the gradient of this iteration's loss, and the terms of the loss for the history.

    Rows called `images` are the pixels that students see: parts of pictures, where these have
    several, at the size of the data. With a frozen encoder their `features` or `views` take their
    place. They are computed once for all goals, and their gradient goes back to the pixels once.
    `still` are those that never change.
    """
    draws: list[_Draw] = []
    used = torch.arange(state.num_images)
    if isinstance(config, MatchingConfig):
        for index in range(config.goals_per_iteration):
            draws.append(_draw(problem, config, state, objective, index))
        # Images that no batch draws get no gradient, so they are not encoded
        used = torch.cat([torch.cat(draw.batches) for draw in draws])
    rows, frozen = state.rows(), None
    pictures = rows.pop("images")
    if still:
        rows.update(still)
    else:
        rows["images"] = split_parts(pictures, config.parts, problem.image_size)
    if problem.is_encoder_frozen and not still:
        frozen = _views(problem, config, rows.pop("images"), used, state.iteration)
        rows[frozen.name] = frozen.values
    if isinstance(config, MatchingConfig):
        found, terms = _of_goals(problem, config, state, objective, draws, rows)
    else:
        found, terms = _of_rows(problem, config, state.iteration, objective, rows)
    # The pull-back is linear: once, of the mean gradient, and not once a goal
    if frozen is not None:
        found.inputs["images"] = frozen.pull_back(found.inputs.pop(frozen.name))
    if "images" in found.inputs:
        found.inputs["images"] = pull_back_parts(found.inputs["images"], pictures, config.parts)
    return found, terms


def _of_rows(
    problem: Problem, config: OuterConfig, iteration: int, objective: Objective, rows: Rows
) -> tuple[Gradient, dict[str, float]]:
    """Return the gradient and the terms of a loss of the rows themselves."""
    assert objective.rows_loss, "a method without students gives the loss of its rows"
    inputs, constants = _split_rows(config, rows)
    wanted = leaves(inputs)
    at = {**constants, **wanted}
    if "views" in at:
        draw = make_generator(problem.seed, "views", iteration, device=problem.flat.device)
        at["features"] = _one_of(at.pop("views"), draw)
    if config.texts_per_image > 1:
        draw = make_generator(problem.seed, "texts", iteration, device=problem.flat.device)
        at["text_embeds"] = _one_of(at["text_embeds"], draw)
    with torch.enable_grad():
        loss, terms = objective.rows_loss(at, iteration)
        grads = gradient(loss, wanted)
    return Gradient(float(loss.detach()), grads, {}, {}), terms


def _of_goals(
    problem: Problem,
    config: MatchingConfig,
    state: OuterState,
    objective: Objective,
    draws: list[_Draw],
    rows: Rows,
) -> tuple[Gradient, dict[str, float]]:
    """Return the gradient of the mean terminal loss of several goals, and the mean of its terms."""
    gradients, terms = [], []
    for draw in draws:
        found, own_terms = _gradient_of(problem, config, state, objective, draw, rows)
        gradients.append(found)
        terms.append(own_terms)
    means = {}
    for name in terms[0]:
        means[name] = sum(part[name] for part in terms) / len(terms)
    return mean_gradient(gradients), means


def _draw(
    problem: Problem, config: MatchingConfig, state: OuterState, objective: Objective, index: int
) -> _Draw:
    names = (index,) if index else ()  # the first goal draws what the only one would
    draw = make_generator(problem.seed, "iteration", state.iteration, *names)
    assert objective.goal, "where a method has no goal of its own, it is a segment"
    goal = objective.goal(state.iteration, draw)
    batches = draw_batches(state.num_images, state.batch_size, config.syn_steps, draw)
    return _Draw(goal, [batch.to(problem.flat.device) for batch in batches], names)


def _gradient_of(
    problem: Problem,
    config: MatchingConfig,
    state: OuterState,
    objective: Objective,
    draw: _Draw,
    rows: Rows,
) -> tuple[Gradient, dict[str, float]]:
    # With a frozen encoder the rows are features already, and no encoder runs in the steps
    how: dict[str, Any] = {}
    if not problem.is_encoder_frozen:
        how = {"encode": problem.flat.encode, "micro_batch": config.micro_batch}
    inputs, constants = _split_rows(config, rows)
    found = trajectory_gradient(
        _loss_fn(problem, config, objective, state.iteration, draw.names),
        draw.goal.theta0, inputs, draw.batches, state.logs(), draw.goal.loss,
        engine=config.engine,
        momentum=config.student_momentum,
        constants=constants,
        is_theta_on_host=config.is_theta_on_host,
        **how,
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
    device, student_loss = problem.flat.device, objective.student_loss
    assert student_loss, "a method of trajectories gives the loss of its students"

    def drawing(name: str, step: int) -> torch.Generator:
        return make_generator(problem.seed, name, iteration, step, *names, device=device)

    def loss_fn(theta: Theta, rows: Rows, step: int) -> Tensor:
        text_embeds = rows["text_embeds"]
        if config.texts_per_image > 1:
            text_embeds = _one_of(text_embeds, drawing("texts", step))
        if "views" in rows:
            features = _one_of(rows["views"], drawing("views", step))
        elif "features" in rows:
            features = rows["features"]
        else:
            features = rows["images"]  # as `encode` left them
        if objective.blend is not None:
            features, text_embeds = objective.blend(features, text_embeds, drawing("blend", step))
        if config.feature_dropout:
            dropping = drawing("feature_dropout", step)
            features = drop(features, config.feature_dropout, dropping)
        masks = drawing("dropout", step) if config.is_dropout_on else None
        return student_loss(*problem.flat.call(theta, features, text_embeds, masks), rows)

    return loss_fn


def _one_of(several: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random one (B, F) of each image's views, or texts, (B, V, F)."""
    num_images, number = several.shape[:2]
    chosen = torch.randint(number, (num_images,), generator=generator, device=several.device)
    return several[torch.arange(num_images, device=several.device), chosen]


def _split_rows(config: OuterConfig, rows: Rows) -> tuple[Rows, Rows]:
    """Return the rows that are differentiated, and those that stay as they are (single-modality
    ablations). Further rows are always learned.
    """
    images = ("images", "features", "views")
    still = {"both": (), "image": ("text_embeds",), "text": images}[config.optimise]
    inputs, constants = {}, {}
    for name, value in rows.items():
        if name in still:
            constants[name] = value
        else:
            inputs[name] = value
    return inputs, constants
