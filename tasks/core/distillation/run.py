"""Moves pairs for any objective, stage 2 (METHOD 4).

An iteration draws a goal: a segment of an expert, unless the method says otherwise. It trains a
student for `syn_steps` on the synthetic pairs. Then it moves images, text embeddings, further
tensors and step sizes along the gradient of the terminal loss (`trajectory.py`). A method without
students gives a loss of the pairs in place of goal and student. Every draw is named by (seed,
iteration), so a checkpoint needs only tensors, optimiser state and the iteration.
Methods in `distillers/` make an `Objective` and call `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from tasks.core.distillation.earlier_pairs import (
    joined,
    learnable_with,
    num_further,
    pairs_of,
    with_step_sizes,
)
from tasks.core.distillation.engine_probe import NUM_PAIRS, engine_of_network
from tasks.core.distillation.initialisation import InitialPairs, initial_pairs
from tasks.core.distillation.matching_config import MatchingConfig, OuterConfig
from tasks.core.distillation.objective import Objective
from tasks.core.distillation.outer_checkpoint import resume
from tasks.core.distillation.outer_guard import Guard
from tasks.core.distillation.outer_iterations import Log, Problem, iterate
from tasks.core.distillation.outer_state import OuterState
from tasks.core.distillation.sample_weights import weight_rows
from tasks.core.networks.frozen_features import prepare_frozen
from tasks.core.networks.precision import check_machine, frozen_encoder, products, student_model
from tasks.core.training.pair_set import LOG_WEIGHTS, PairSet
from tasks.core.training.parts import split_parts

Options = TypeVar("Options", bound=OuterConfig)

__all__ = ["Distilled", "Log", "Problem", "method_of", "run"]


@dataclass(frozen=True)
class Distilled:
    """The result.

    Attributes:
        pairs: the set.
        initial: the pairs that it started from.
        history: one row an iteration: loss, loss_img, loss_txt, and with students step_size_img,
            step_size_txt. A method of several parts (`meta_model`) has a further column that says
            which.
    """

    pairs: PairSet
    initial: InitialPairs
    history: list[dict[str, float]]


def run(
    problem: Problem,
    config: OuterConfig,
    num_pairs: int,
    objective: Objective,
    *,
    begin: Distilled | None = None,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> Distilled:
    """Distil a set for a budget, by moving its pairs until `config.iterations` are done.

    Args:
        num_pairs: the budget; the set holds so many, less those that the objective gives back.
        objective: what the method puts in.
        begin: go on from this set of the same size, instead of from initial pairs. Its own initial
            pairs stay those of the result. The caller puts its step sizes into `config`.
        checkpoint: file to resume from and to write every `config.checkpoint_every` iterations.
        log: called with the history row and the iteration (0-based) after each iteration.

    Raises:
        ValueError: the loss or a step size stopped being finite twice (once is healed by a
            roll-back with halved outer steps); names iteration and last finite values. The device
            lacks what `precision` or `is_compiled` ask for, or the network second derivatives that
            `engine` asks for.
    """
    check_machine(config.precision, is_compiled=config.is_compiled, device=problem.flat.device)
    size = num_pairs - objective.num_pairs_returned
    initial = begin.initial if begin else _initial(problem, config, size)
    pairs = begin.pairs if begin else initial
    if not begin:
        config = with_step_sizes(problem.earlier, config)
    seen = split_parts(pairs.images[:NUM_PAIRS], config.parts, problem.image_size)
    # A frozen encoder may take a faster form at once: nothing of it is trained. A trained one is
    # compiled as a part of the student.
    if problem.is_encoder_frozen:
        module = prepare_frozen(problem.encoder.module, seen[:2])
        module = frozen_encoder(module, config.precision, is_compiled=config.is_compiled)
        problem = replace(problem, encoder=replace(problem.encoder, module=module))
    is_student_compiled = config.is_compiled and not problem.is_encoder_frozen
    problem = replace(
        problem, flat=student_model(problem.flat, config.precision, is_compiled=is_student_compiled)
    )
    weights = initial.log_weights if pairs.log_weights is None else pairs.log_weights
    learnable = {
        **learnable_with(problem.earlier, objective),
        **weight_rows(config, objective, weights, size * config.parts**2),
    }
    state = OuterState(
        config,
        num_pairs,
        pairs.images,
        pairs.text_embeds,
        learnable,
        num_earlier=problem.earlier.num_pairs if problem.earlier else 0,
        encoder=problem.encoder,
        device=problem.flat.device,
    )
    guard = Guard(state)
    resume(checkpoint, guard)
    with products(config.precision):
        if isinstance(config, MatchingConfig):
            engine = engine_of_network(
                problem.flat,
                config,
                seen,
                pairs.text_embeds,
                state.batch_size,
                is_encoder_frozen=problem.is_encoder_frozen,
            )
            config = replace(config, engine=engine)
        iterate(problem, config, guard, objective, checkpoint=checkpoint, log=log)
    return Distilled(_pair_set(problem, config, state, objective), initial, state.history)


def method_of(
    objective: Callable[[Problem, Options, int], Objective],
) -> Callable[..., Distilled]:
    """Return the `distill` of a method that is one `run` with its objective.

    Args:
        objective: makes it out of the problem, the method's options and the budget.
    """

    def distill(
        problem: Problem,
        config: Options,
        num_pairs: int,
        *,
        checkpoint: Path | None = None,
        log: Log | None = None,
    ) -> Distilled:
        made = objective(problem, config, num_pairs)
        return run(problem, config, num_pairs, made, checkpoint=checkpoint, log=log)

    return distill


def _initial(problem: Problem, config: OuterConfig, size: int) -> InitialPairs:
    earlier, without = problem.earlier, None
    num_pictures = num_further(earlier, size)
    if earlier:
        without = pairs_of(earlier).image_idx
        if not num_pictures:
            return pairs_of(earlier)
    further = initial_pairs(
        problem.train,
        problem.encoder,
        num_pictures,
        image=config.init_image,
        text=config.init_text,
        seed=problem.seed,
        texts_per_image=config.texts_per_image,
        parts=config.parts,
        picture_size=config.picture_size,
        without=without,
    )
    return joined(pairs_of(earlier), further) if earlier else further


def _pair_set(
    problem: Problem, config: OuterConfig, state: OuterState, objective: Objective
) -> PairSet:
    rows = {name: value.cpu().contiguous() for name, value in state.rows().items()}
    similarity = objective.similarity(rows) if objective.similarity else None
    text_embeds, text_image_idx = rows["text_embeds"], None
    if config.texts_per_image > 1:
        text_embeds = text_embeds.flatten(0, 1)
        every = torch.arange(state.num_images)
        text_image_idx = every.repeat_interleave(config.texts_per_image)
    return PairSet(
        rows["images"],
        text_embeds,
        problem.encoder.mean,
        problem.encoder.std,
        similarity=similarity,
        step_sizes=state.step_sizes() or None,
        loss=objective.loss_name,
        storage=config.storage,
        parts=config.parts,
        image_size=None if config.picture_size is None else problem.image_size,
        text_image_idx=text_image_idx,
        log_weights=rows.get(LOG_WEIGHTS),
    )
