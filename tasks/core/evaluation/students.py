"""Evaluation (METHOD 8): train a fresh student on a set, choose its epoch by the protocol, score
the test split.

The test split is scored by the function that the caller gives (FAISS in the pipeline); validation
by counting (`retrieval.recall`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from tasks.core.evaluation.retrieval import recall
from tasks.core.foundations.records import Split
from tasks.core.foundations.section import BatchSize, Count, Range, Rate, Section, Share
from tasks.core.networks.dual_encoder import DualEncoder
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.functional import FlatModel, Theta
from tasks.core.training.embedding import embed_split
from tasks.core.training.epoch import Loss, Pairs, parameter_groups, train_epoch

Protocol = Literal["strict", "last", "upstream_best"]


@dataclass(frozen=True, kw_only=True)
class RecipeSection(Section):
    """How a student is trained on a set (METHOD 8): SGD with momentum, step sizes x0.1 at
    half-time.

    Attributes:
        num_epochs: passes over the set.
        batch_size: pairs per step, at most the set.
        lr_img, lr_txt: step sizes; a distilled set that carries learned ones uses those.
        momentum, weight_decay: of SGD.
        num_validations: times that the validation split is scored, evenly spread, the last epoch
            among them.
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
    """The evaluator: one recipe for every small set, one for the full data, whatever the student.

    Further students (`evaluate.cross_architecture` of params.yaml) are `StudentSection`s.

    Attributes:
        num_eval: students per set, each with its own projections and data order.
        protocol: which epoch's test scores count (METHOD 8).
        small: recipe for coresets and distilled sets.  full: recipe for all of the training split.
    """

    num_eval: Annotated[int, Range(ge=1, unit="students")]
    protocol: Protocol
    small: RecipeSection
    full: RecipeSection


Score = Callable[[Tensor, Tensor, Tensor], dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """A trained student's result.

    Attributes:
        test: Recall@K of the test split in percent, of the epoch that the protocol chose.
        val: the same of the validation split.
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
        protocol: `strict` chooses the epoch on validation and scores test once; `last` takes the
            last epoch; `upstream_best` takes the best of 11 test scores, as LoRS and others print,
            for comparison only.
        score: Recall@K of (image embeddings, text embeddings, caption_image_idx).
        loss_fn: see `train_epoch`; `similarity.set_loss` of a stored set.
        progress: called with (epochs done, epochs in all, loss=loss of the epoch, and
            val_mean_recall=recall in percent, once an epoch was scored).
    """
    rates = step_sizes or {"img": recipe.lr_img, "txt": recipe.lr_txt}
    groups = parameter_groups(model, rates["img"], rates["txt"])
    optimiser = torch.optim.SGD(
        groups, lr=rates["txt"], momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    flat = FlatModel(model)
    scored = _scored_epochs(
        recipe.num_epochs, 10 if protocol == "upstream_best" else recipe.num_validations
    )
    curve: list[dict[str, float]] = []
    best: tuple[float, int, dict[str, float], Theta] | None = None

    def judge(epoch: int, loss: float) -> None:
        nonlocal best
        row = {"epoch": float(epoch), "loss": loss}
        found = recall(*embed_split(model, val, encoder, device=flat.device), val.caption_image_idx)
        row["val_mean_recall"] = criterion = found["mean_recall"]
        if protocol == "upstream_best":
            on_test = score(
                *embed_split(model, test, encoder, device=flat.device), test.caption_image_idx
            )
            row["test_mean_recall"] = criterion = on_test["mean_recall"]
        curve.append(row)
        if best is None or criterion > best[0] or protocol == "last":
            best = (criterion, epoch, found, flat.flatten())

    if protocol == "upstream_best":
        judge(0, float("nan"))
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
    assert best is not None
    flat.load(best[3])
    tested = score(*embed_split(model, test, encoder, device=flat.device), test.caption_image_idx)
    return Outcome(tested, best[2], best[1], curve)


def num_scorings(recipe: RecipeSection, protocol: Protocol) -> tuple[int, int]:
    """Return how often one student is scored on the validation and on the test split."""
    if protocol == "upstream_best":
        both = len(_scored_epochs(recipe.num_epochs, 10)) + 1
        return both, both + 1
    return len(_scored_epochs(recipe.num_epochs, recipe.num_validations)), 1


def _scored_epochs(num_epochs: int, count: int) -> set[int]:
    """`count` epochs, evenly spread over 1..num_epochs, the last among them."""
    count = min(count, num_epochs)
    return {round((index + 1) * num_epochs / count) for index in range(count)}
