"""Contrastive training of a dual encoder on image-text pairs: where batches come from, and one
epoch.

Experts (`experts.py`), students (`students.py`) and the forgetting coreset share it. Each epoch
draws its order, captions, augmentation and dropout from generators named by (seed, epoch): training
can stop after any epoch and go on the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from tasks.core.foundations.seeding import make_generator
from tasks.core.training.losses import info_nce

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Pairs(Protocol):
    """A source of training pairs."""

    @property
    def num_pairs(self) -> int: ...

    def take(
        self, rows: Tensor, captions: torch.Generator, pictures: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) or features (B, F), and texts (B, D), of the given rows
        (B,).
        """
        ...


def parameter_groups(model: nn.Module, lr_img: float, lr_txt: float) -> list[dict[str, object]]:
    """Return optimiser groups of the trainable parameters: names that start with `text_` are the
    text group (METHOD 2).
    """
    trainable = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    groups = {
        "img": [p for n, p in trainable if not n.startswith("text_")],
        "txt": [p for n, p in trainable if n.startswith("text_")],
    }
    rates = {"img": lr_img, "txt": lr_txt}
    return [{"params": groups[name], "lr": rates[name]} for name in groups if groups[name]]


def train_epoch(
    model: nn.Module,
    pairs: Pairs,
    optimiser: torch.optim.Optimizer,
    *,
    batch_size: int,
    tau: float,
    seed: int,
    epoch: int,
    loss_fn: Loss | None = None,
    on_batch: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> float:
    """Train one epoch in place and return its mean loss.

    The model stays in eval mode: BatchNorm statistics are frozen (METHOD 2) and dropout comes from
    a seeded generator.

    Args:
        loss_fn: (image embeddings, text embeddings, rows) -> scalar; InfoNCE at `tau` by default.
        on_batch: called with rows (B,) and detached embeddings (B, d) of each batch, before its
            update.

    Raises:
        ValueError: a loss that is not finite; names epoch, step and the last finite loss.
    """
    model.eval()
    device = next(model.parameters()).device
    captions, pictures = (
        make_generator(seed, "captions", epoch),
        make_generator(seed, "augment", epoch),
    )
    dropout = make_generator(seed, "dropout", epoch, device=device)
    total, count, last = 0.0, 0, float("nan")
    losses, sizes = list[Tensor](), list[int]()
    for rows in _batches(pairs.num_pairs, batch_size, make_generator(seed, "order", epoch)):
        images, texts = pairs.take(rows, captions, pictures)
        img, txt = model(images, texts, dropout)
        loss = info_nce(img, txt, tau=tau) if loss_fn is None else loss_fn(img, txt, rows)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if on_batch is not None:
            on_batch(rows, img.detach(), txt.detach())
        optimiser.step()
        losses.append(loss.detach())
        sizes.append(len(rows))
    # One read-back per epoch, so that the device never waits inside it.
    for step, (number, size) in enumerate(zip(torch.stack(losses).tolist(), sizes, strict=True)):
        if not math.isfinite(number):
            raise ValueError(
                f"the training loss is {number} in epoch {epoch}, step {step}; the last finite "
                f"loss was {last:.4g}; "
                "lower lr_img / lr_txt of the stage's section in params.yaml"
            )
        total, count, last = total + number * size, count + size, number
    return total / count


def _batches(num_pairs: int, batch_size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Rows of one epoch in random order; a rest of one pair is left out, since it has no
    negative.
    """
    for rows in torch.randperm(num_pairs, generator=order).split(batch_size):
        if len(rows) > 1:
            yield rows
