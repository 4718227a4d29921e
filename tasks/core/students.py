"""Evaluation (METHOD 8): train a fresh student on a set, choose its epoch by the protocol, score
the test split.

The test split is scored by the function that the caller gives (FAISS in the pipeline); validation
by counting (`retrieval.recall`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.dual_encoder import DualEncoder
from tasks.core.encoders import ImageEncoder, normalise, take_rows
from tasks.core.functional import FlatModel, Theta
from tasks.core.records import Split
from tasks.core.retrieval import recall
from tasks.core.sections import Protocol, RecipeSection
from tasks.core.training import Loss, Pairs, parameter_groups, train_epoch

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


def embed_split(
    model: DualEncoder,
    split: Split,
    encoder: ImageEncoder,
    *,
    device: torch.device,
    batch_size: int = 128,
) -> tuple[Tensor, Tensor]:
    """Return L2-normalised image (N, d) and caption (T, d) embeddings of a whole split, float32 on
    the CPU.
    """
    images, texts = [], []
    dummy = split.text_embeds[:1].to(device)
    with torch.inference_mode():
        for first in range(0, split.num_images, batch_size):
            rows = torch.arange(first, min(first + batch_size, split.num_images))
            if split.features is not None:
                batch = split.features[rows].to(device)
            else:
                batch = normalise(take_rows(split.images, rows, device), encoder.mean, encoder.std)
            images.append(model(batch, dummy)[0].float().cpu())
        for part in split.text_embeds.split(4096):
            texts.append(
                torch.nn.functional.normalize(model.text_projection(part.to(device)), dim=1)
                .float()
                .cpu()
            )
    return torch.cat(images).clone(), torch.cat(texts).clone()


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
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Train `model` in place on `pairs` and score it.

    Args:
        step_sizes: learned step sizes of a distilled set, {"img", "txt"}; None uses the recipe's.
        protocol: `strict` chooses the epoch on validation and scores test once, `last` takes the
            last epoch, `upstream_best` takes the best of 11 test scores (as LoRS and others print;
            for comparison only).
        score: Recall@K of (image embeddings, text embeddings, caption_image_idx).
        loss_fn: see `train_epoch`; `similarity.set_loss` of a stored set.  progress: called with
            (epochs done, epochs in all).
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
            progress(epoch + 1, recipe.num_epochs)
    assert best is not None
    flat.load(best[3])
    tested = score(*embed_split(model, test, encoder, device=flat.device), test.caption_image_idx)
    return Outcome(tested, best[2], best[1], curve)


def _scored_epochs(num_epochs: int, count: int) -> set[int]:
    """`count` epochs, evenly spread over 1..num_epochs, the last among them."""
    count = min(count, num_epochs)
    return {round((index + 1) * num_epochs / count) for index in range(count)}
