"""Stage 2 (METHOD 4): the outer loop of trajectory matching, for any student loss.

Per iteration: draw an expert and a start epoch, train a student for `syn_steps` on the synthetic pairs, and move images,
texts and step sizes along the gradient of the matching loss (`matching.py`). Every draw is named by (seed, iteration), so a
checkpoint needs only tensors, optimiser state and the iteration. Methods in `distillers/` call `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core.checkpoints import load_checkpoint, save_checkpoint
from tasks.core.encoders import ImageEncoder
from tasks.core.experts import Buffer
from tasks.core.frozen_features import FrozenFeatures, prepare_frozen
from tasks.core.functional import FlatModel, Theta
from tasks.core.initialisation import Start, initial_pairs
from tasks.core.matching import Gradient, Rows, draw_batches, matching_loss, trajectory_gradient
from tasks.core.matching_config import MatchingConfig
from tasks.core.outer_loop import OuterState
from tasks.core.records import PairSet, Split
from tasks.core.seeding import make_generator

StudentLoss = Callable[[Tensor, Tensor], Tensor]
Log = Callable[[dict[str, float], int], None]

HISTORY = ("loss", "loss_img", "loss_txt", "step_size_img", "step_size_txt")


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
    """

    flat: FlatModel
    encoder: ImageEncoder
    train: Split
    buffer: Buffer
    is_encoder_frozen: bool
    seed: int


@dataclass(frozen=True)
class Distilled:
    """The result: the set, what it started from, and one history row (`HISTORY`) per iteration."""

    pairs: PairSet
    start: Start
    history: list[dict[str, float]]


def run(
    problem: Problem,
    config: MatchingConfig,
    num_pairs: int,
    student_loss: StudentLoss,
    *,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> Distilled:
    """Distil `num_pairs` pairs.

    Args:
        student_loss: loss of L2-normalised (B, d) image and text embeddings.
        checkpoint: file to resume from and to write every `config.checkpoint_every` iterations.
        log: called with the history row and the iteration (0-based) after each iteration.

    Raises:
        ValueError: the loss or a step size stopped being finite twice (once is healed by a roll-back with halved
            outer steps); names iteration and last finite values.
    """
    start = initial_pairs(problem.train, problem.encoder, num_pairs, image=config.init_image, text=config.init_text, seed=problem.seed)
    if problem.is_encoder_frozen:
        module = prepare_frozen(problem.encoder.module, start.images[:2])
        problem = replace(problem, encoder=replace(problem.encoder, module=module))
    state = OuterState(config, num_pairs, start.images, start.texts, device=problem.flat.device)
    state.restore(load_checkpoint(checkpoint) if checkpoint else None)
    while state.iteration < config.iterations:
        iteration = state.iteration
        found, parts = _gradient(problem, config, state, student_loss)
        row = {"loss": found.loss, **parts, **{f"step_size_{group}": size for group, size in state.step_sizes().items()}}
        if not state.update(found, row):
            continue  # rolled back: this iteration comes again
        if log:
            log(row, iteration)
        if checkpoint and state.iteration % config.checkpoint_every == 0 and state.iteration < config.iterations:
            save_checkpoint(checkpoint, *state.dump())
    images, texts = state.images.detach().cpu().contiguous(), state.texts.detach().cpu().contiguous()
    pairs = PairSet(images, texts, problem.encoder.mean, problem.encoder.std, step_sizes=state.step_sizes())
    return Distilled(pairs, start, state.history)


def _gradient(problem: Problem, config: MatchingConfig, state: OuterState, student_loss: StudentLoss) -> tuple[Gradient, dict[str, float]]:
    """Draw a segment and batches for this iteration and differentiate the matching loss."""
    flat, iteration = problem.flat, state.iteration
    draw = make_generator(problem.seed, "iteration", iteration)
    expert = int(torch.randint(problem.buffer.num_experts, (1,), generator=draw))
    epoch = int(torch.randint(config.max_start_epoch, (1,), generator=draw))
    begin = problem.buffer.snapshot(expert, epoch)
    target = problem.buffer.snapshot(expert, epoch + config.expert_epochs)
    batches = [batch.to(flat.device) for batch in draw_batches(state.num_pairs, state.batch_size, config.syn_steps, draw)]
    pixels, texts = state.images.detach(), state.texts.detach()
    frozen = FrozenFeatures(problem.encoder.module, pixels, torch.cat(batches)) if problem.is_encoder_frozen else None
    images = pixels if frozen is None else frozen.values
    inputs, constant = _split_inputs(config, {"images": images, "texts": texts})

    def loss_fn(theta: Theta, rows: Rows, step: int) -> Tensor:
        rows = {**rows, **{name: value[batches[step]] for name, value in constant.items()}}
        masks = make_generator(problem.seed, "dropout", iteration, step, device=flat.device) if config.is_dropout_on else None
        return student_loss(*flat.call(theta, rows["images"], rows["texts"], masks))

    found = trajectory_gradient(
        loss_fn, begin, inputs, batches, state.logs(),
        lambda theta: matching_loss(theta, begin, target, merge_branches=config.merge_branches),
        engine=config.engine_for(problem.is_encoder_frozen),
    )  # fmt: skip
    if frozen is not None and "images" in found.inputs:
        found.inputs["images"] = frozen.pull_back(found.inputs["images"])
    return found, _parts(found.theta, begin, target)


def _split_inputs(config: MatchingConfig, rows: Rows) -> tuple[Rows, Rows]:
    """Rows that are differentiated, and rows that stay as they are (single-modality ablations)."""
    chosen = {"both": ("images", "texts"), "image": ("images",), "text": ("texts",)}[config.optimise]
    return {n: v for n, v in rows.items() if n in chosen}, {n: v for n, v in rows.items() if n not in chosen}


def _parts(theta: Theta, begin: Theta, target: Theta) -> dict[str, float]:
    """The two terms of the matching loss, for the history."""
    parts: dict[str, Any] = {}
    for group in ("img", "txt"):
        if theta[group].numel():
            parts[f"loss_{group}"] = float((theta[group] - target[group]).square().sum() / (begin[group] - target[group]).square().sum())
        else:
            parts[f"loss_{group}"] = 0.0
    return parts
