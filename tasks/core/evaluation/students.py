"""Evaluates a set (METHOD 8): trains a fresh student on it, chooses an epoch by the protocol, and
scores the test split.

The caller gives the function that scores the test split; the pipeline gives one that searches by
FAISS. Validation is scored by counting (`retrieval.recall`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from tasks.core.evaluation.retrieval import recall
from tasks.core.foundations.records import Split
from tasks.core.foundations.section import BatchSize, Count, Range, Rate, Section, Share
from tasks.core.networks.dual_encoder import DualEncoder
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.functional import FlatModel, Theta
from tasks.core.training.embedding import embed_split
from tasks.core.training.epoch import Loss, Pairs, sgd, train_epoch

Protocol = Literal["strict", "last", "upstream_best"]


@dataclass(frozen=True, kw_only=True)
class RecipeSection(Section):
    """How a student is trained on a set (METHOD 8): by SGD with momentum, with a tenth of the step
    sizes from half-time on.

    Attributes:
        num_epochs: passes over the set.
        batch_size: pairs per step, at most the set.
        lr_img, lr_txt: step sizes; learned step sizes of a distilled set replace them.
        momentum, weight_decay: of SGD.
        num_validations: how often the validation split is scored, in epochs that are spread evenly
            up to the last one.
    """

    num_epochs: Count
    batch_size: BatchSize
    lr_img: Rate
    lr_txt: Rate
    momentum: Share
    weight_decay: Share
    num_validations: Count


@dataclass(frozen=True, kw_only=True)
class EvaluateSection(Section):
    """How sets are evaluated: one recipe for every small set, and one for the full data.

    Both hold for every student. A further one (`evaluate.cross_architecture` of params.yaml) is a
    `StudentSection`; it may change values of both recipes.

    Attributes:
        num_eval: students per set, each with its own projections and data order.
        protocol: the rule for the epoch with the test score that counts (METHOD 8).
        decoded: whether each set with texts that are no sentences is scored a second time,
            with the nearest training sentences in their place.
        plain: whether each of these sets is scored once more with plain students: identity
            similarity, InfoNCE, the step sizes of the recipe, none learned.
        augmented: whether each of these sets, and random pairs, are scored once more with crops of
            their pictures (`augmented.py`).
        ceilings: whether linear heads in closed form are scored as reference rows, for every
            student with a frozen image encoder (`ceilings.py`).
        small: recipe for coresets and distilled sets.
        full: recipe for all of the training split.
    """

    num_eval: Annotated[int, Range(ge=1, unit="students")]
    protocol: Protocol
    decoded: bool
    plain: bool
    augmented: bool
    ceilings: bool
    small: RecipeSection
    full: RecipeSection


Score = Callable[[Tensor, Tensor, Tensor], dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """The result of a trained student.

    Attributes:
        test: Recall@K of the test split in percent, in the epoch that the protocol chose.
        val: the same for the validation split.
        chosen_epoch: 1-based; 0 is before training.
        curve: one row per scored epoch: epoch, loss, val_mean_recall (and test_mean_recall for
            `upstream_best`).
    """

    test: dict[str, float]
    val: dict[str, float]
    chosen_epoch: int
    curve: list[dict[str, float]]


def train_student(
    model: DualEncoder,
    pairs: Pairs,
    recipe: RecipeSection,
    *,
    step_sizes: dict[str, float] | None,
    protocol: Protocol,
    encoder: ImageEncoder,
    val: Split,
    test: Split,
    score: Score,
    tau: float,
    seed: int,
    loss_fn: Loss | None = None,
    progress: Callable[..., None] | None = None,
) -> Outcome:
    """Train `model` in place on `pairs` and score it.

    Args:
        step_sizes: learned step sizes of a distilled set, {"img", "txt"}; None uses the recipe's.
        protocol: `strict` chooses the epoch on validation and scores test once. `last` takes the
            last epoch. `upstream_best` takes the best of 11 test scores, as LoRS and others print;
            it is for comparison only.
        score: Recall@K of (image embeddings, text embeddings, caption_image_idx).
        loss_fn: see `train_epoch`; `similarity.set_loss` of a stored set.
        progress: called after each epoch with (epochs done, epochs in all, loss=). Once an epoch
            was scored, val_mean_recall= in percent comes with it.
    """
    # Learned step sizes are a part of the set: its pairs were made for them
    rates = step_sizes or {"img": recipe.lr_img, "txt": recipe.lr_txt}
    decay = recipe.weight_decay
    optimiser = sgd(model, rates["img"], rates["txt"], momentum=recipe.momentum, weight_decay=decay)
    flat = FlatModel(model)
    scored = _scored_epochs(recipe, protocol)
    curve: list[dict[str, float]] = []
    best: tuple[float, int, dict[str, float], Theta] | None = None

    def scores(split: Split, by: Score) -> dict[str, float]:
        img, txt = embed_split(model, split, encoder, device=flat.device)
        return by(img, txt, split.caption_image_idx)

    def judge(epoch: int, loss: float) -> None:
        nonlocal best
        found = scores(val, recall)
        criterion = found["mean_recall"]
        row = {"epoch": float(epoch), "loss": loss, "val_mean_recall": criterion}
        if protocol == "upstream_best":
            # This protocol chooses on the test split, as published code does (METHOD 9)
            row["test_mean_recall"] = criterion = scores(test, score)["mean_recall"]
        curve.append(row)
        # Of equal epochs the first one is kept. `flatten` copies, so training goes on without harm.
        if best is None or criterion > best[0] or protocol == "last":
            best = (criterion, epoch, found, flat.flatten())

    if 0 in scored:
        judge(0, math.nan)
    for epoch in range(recipe.num_epochs):
        if epoch == recipe.num_epochs // 2:
            for group in optimiser.param_groups:
                group["lr"] *= 0.1
        loss = train_epoch(
            model,
            pairs,
            optimiser,
            batch_size=recipe.batch_size,
            tau=tau,
            seed=seed,
            epoch=epoch,
            loss_fn=loss_fn,
        )
        if epoch + 1 in scored:
            judge(epoch + 1, loss)
        if progress:
            latest = {"val_mean_recall": curve[-1]["val_mean_recall"]} if curve else {}
            progress(epoch + 1, recipe.num_epochs, loss=loss, **latest)
    assert best is not None, "the last epoch is scored in every protocol"
    _, chosen, on_val, theta = best
    # The chosen epoch need not be the last. `strict` and `last` score the test split only here.
    flat.load(theta)
    return Outcome(scores(test, score), on_val, chosen, curve)


def num_scorings(recipe: RecipeSection, protocol: Protocol) -> tuple[int, int]:
    """Return how often one student is scored on the validation and on the test split."""
    on_val = len(_scored_epochs(recipe, protocol))
    # The chosen epoch is scored on test at the end in any case
    return on_val, on_val + 1 if protocol == "upstream_best" else 1


def _scored_epochs(recipe: RecipeSection, protocol: Protocol) -> set[int]:
    """Return the epochs after which the student is scored, spread evenly up to the last one.

    `upstream_best` takes 10 of them, and epoch 0 before training: the 11 scores of published code.
    """
    found, wanted = set[int](), recipe.num_validations
    if protocol == "upstream_best":
        found, wanted = {0}, 10
    count = min(wanted, recipe.num_epochs)
    for index in range(1, count + 1):
        found.add(round(index * recipe.num_epochs / count))
    return found
