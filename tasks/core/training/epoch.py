"""Trains a dual encoder on image-text pairs for one epoch, with a contrastive loss.

Experts (`experts.py`), students (`students.py`) and the forgetting coreset share it. Order,
captions, augmentation and dropout of an epoch come from generators that are named by (seed, epoch).
So training can stop after any epoch and go on as if it had not.
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
        """Return images (B, C, H, W) or features (B, F), and caption embeddings (B, D), of the
        given rows (B,).
        """
        ...


def sgd(
    model: nn.Module, lr_img: float, lr_txt: float, *, momentum: float, weight_decay: float = 0.0
) -> torch.optim.SGD:
    """Return SGD over the trainable parameters, with a step size for each group.

    Parameters whose name starts with `text_` are the text group, all others the image group
    (METHOD 2).
    """
    image, text = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = text if name.startswith("text_") else image
            group.append(parameter)
    groups = [{"params": image, "lr": lr_img}, {"params": text, "lr": lr_txt}]
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)


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
    captions = make_generator(seed, "captions", epoch)
    pictures = make_generator(seed, "augment", epoch)
    dropout = make_generator(seed, "dropout", epoch, device=device)
    total, count, last = 0.0, 0, float("nan")
    losses, sizes = list[Tensor](), list[int]()
    for rows in _batches(pairs.num_pairs, batch_size, make_generator(seed, "order", epoch)):
        images, text_embeds = pairs.take(rows, captions, pictures)
        img, txt = model(images, text_embeds, dropout)
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
    """Yield the rows of one epoch in random order, a batch at a time."""
    for rows in torch.randperm(num_pairs, generator=order).split(batch_size):
        # A rest of one pair is left out: it has no negative, and its loss no gradient
        if len(rows) > 1:
            yield rows
