"""Stage 2 (METHOD 4): the outer loop of trajectory matching, for any objective.

Per iteration: draw a goal (a segment of an expert, unless the method says otherwise), train a student for `syn_steps` on the
synthetic pairs, and move images, texts, further tensors and step sizes along the exact gradient of the terminal loss
(`matching.py`). Every draw is named by (seed, iteration), so a checkpoint needs only tensors, optimiser state and the iteration.
Methods in `distillers/` make an `Objective` and call `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tasks.core.checkpoints import load_checkpoint, save_checkpoint
from tasks.core.encoders import ImageEncoder
from tasks.core.expert_segments import draw_segment
from tasks.core.experts import Buffer
from tasks.core.frozen_features import FrozenFeatures, prepare_frozen
from tasks.core.functional import FlatModel, Theta
from tasks.core.initialisation import Start, initial_pairs
from tasks.core.matching import Gradient, LossFn, Rows, draw_batches, trajectory_gradient
from tasks.core.matching_config import MatchingConfig
from tasks.core.objective import Objective
from tasks.core.outer_loop import OuterState
from tasks.core.records import PairSet, Split
from tasks.core.seeding import make_generator

Log = Callable[[dict[str, float], int], None]


@dataclass(frozen=True)
class Problem:
    """What stage 2 works on.

    Attributes:
        flat: the dual encoder as a function of flat vectors, on the device of the computation.
        encoder: image encoder and normalisation.
        train: training split.
        buffer: expert trajectories of the same encoder and trainable set.
        is_encoder_frozen: run the student on features and pull the gradient back to pixels (METHOD 5, `heads`).
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


@dataclass(frozen=True)
class Distilled:
    """The result.

    Attributes:
        pairs: the set.
        start: what it started from.
        history: one row an iteration: loss, loss_img, loss_txt, step_size_img, step_size_txt; with `skip_above` also
            num_skipped, the iterations skipped so far.
    """

    pairs: PairSet
    start: Start
    history: list[dict[str, float]]


def run(
    problem: Problem,
    config: MatchingConfig,
    num_pairs: int,
    objective: Objective,
    *,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> Distilled:
    """Distil a set of the budget `num_pairs`, less the pairs that the objective gives back.

    Args:
        objective: what the method puts in.
        checkpoint: file to resume from and to write every `config.checkpoint_every` iterations.
        log: called with the history row and the iteration (0-based) after each iteration.

    Raises:
        ValueError: the loss or a step size stopped being finite twice (once is healed by a roll-back with halved
            outer steps); names iteration and last finite values.
    """
    stored = num_pairs - objective.num_pairs_returned
    start = initial_pairs(problem.train, problem.encoder, stored, image=config.init_image, text=config.init_text, seed=problem.seed)
    if problem.is_encoder_frozen:
        module = prepare_frozen(problem.encoder.module, start.images[:2])
        problem = replace(problem, encoder=replace(problem.encoder, module=module))
    state = OuterState(config, num_pairs, start.images, start.texts, objective.learnable, device=problem.flat.device)
    state.restore(load_checkpoint(checkpoint) if checkpoint else None)
    while state.iteration < config.iterations:
        iteration = state.iteration
        found, terms = _gradient(problem, config, state, objective)
        row = {"loss": found.loss, **terms, **{f"step_size_{group}": size for group, size in state.step_sizes().items()}}
        if not state.update(found, row):
            continue  # rolled back: this iteration comes again
        if log:
            log(state.history[-1], iteration)
        if checkpoint and state.iteration % config.checkpoint_every == 0 and state.iteration < config.iterations:
            save_checkpoint(checkpoint, *state.dump())
    return Distilled(_pair_set(problem.encoder, state, objective), start, state.history)


def _pair_set(encoder: ImageEncoder, state: OuterState, objective: Objective) -> PairSet:
    rows, step_sizes = state.result()
    similarity = objective.similarity(rows) if objective.similarity else None
    return PairSet(
        rows["images"], rows["texts"], encoder.mean, encoder.std, similarity=similarity, step_sizes=step_sizes, loss=objective.loss_name
    )


def _gradient(problem: Problem, config: MatchingConfig, state: OuterState, objective: Objective) -> tuple[Gradient, dict[str, float]]:
    """Draw goal and batches of this iteration and differentiate the terminal loss; also its terms for the history."""
    flat, iteration, is_frozen = problem.flat, state.iteration, problem.is_encoder_frozen
    draw = make_generator(problem.seed, "iteration", iteration)
    goal = objective.goal(iteration, draw) if objective.goal else draw_segment(problem.buffer, config, iteration, draw)
    batches = [batch.to(flat.device) for batch in draw_batches(state.num_pairs, state.batch_size, config.syn_steps, draw)]
    rows, frozen = state.rows(), None
    if is_frozen:
        frozen = FrozenFeatures(problem.encoder.module, rows["images"], torch.cat(batches), micro_batch=config.micro_batch)
        rows["images"] = frozen.values
    inputs, constants = _split_rows(config, rows)
    found = trajectory_gradient(
        _loss_fn(problem, config, objective, iteration), goal.start, inputs, batches, state.logs(), goal.loss,
        engine=config.engine_for(is_frozen),
        constants=constants,
        encode=None if is_frozen else flat.encode,
        micro_batch=None if is_frozen else config.micro_batch,
        is_theta_on_host=config.is_theta_on_host,
    )  # fmt: skip
    if frozen is not None and "images" in found.inputs:
        found.inputs["images"] = frozen.pull_back(found.inputs["images"])
    with torch.no_grad():
        return found, goal.terms(found.theta)


def _loss_fn(problem: Problem, config: MatchingConfig, objective: Objective, iteration: int) -> LossFn:
    """The student's loss in one step: blend, projections, the method's loss; random parts are the same at every call."""
    device = problem.flat.device

    def loss_fn(theta: Theta, rows: Rows, step: int) -> Tensor:
        features, texts = rows["images"], rows["texts"]
        if objective.blend is not None:
            features, texts = objective.blend(features, texts, make_generator(problem.seed, "blend", iteration, step, device=device))
        masks = make_generator(problem.seed, "dropout", iteration, step, device=device) if config.is_dropout_on else None
        return objective.student_loss(*problem.flat.call(theta, features, texts, masks), rows)

    return loss_fn


def _split_rows(config: MatchingConfig, rows: Rows) -> tuple[Rows, Rows]:
    """Rows that are differentiated, and rows that stay as they are (single-modality ablations); further ones are learned."""
    still = {"both": (), "image": ("texts",), "text": ("images",)}[config.optimise]
    return {n: v for n, v in rows.items() if n not in still}, {n: v for n, v in rows.items() if n in still}
