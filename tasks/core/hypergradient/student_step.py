"""One student step, l(theta; rows of a mini-batch): its gradient and the second-order products of
METHOD 5.

`WholeBatch` differentiates the batch at once, `MicroBatches` (micro_batches.py) in parts with the
same result. Both serve the engines of `trajectory.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tasks.core.hypergradient.second_order import SecondOrder, Tensors, leaves
from tasks.core.networks.functional import GROUPS, Theta

Rows = dict[str, Tensor]
LossFn = Callable[[Theta, Rows, int], Tensor]
Encode = Callable[[Theta, Tensor], Tensor]

IMAGES = "images"


@dataclass(frozen=True)
class Batch:
    """The rows of one student step.

    Attributes:
        step: its number, 0 .. T-1.
        rows: differentiated, (B, ...) each.
        constants: not differentiated, (B, ...) each.
    """

    step: int
    rows: Rows
    constants: Rows


@dataclass(frozen=True)
class Product:
    """g = grad_theta l at one step, and h = d<g, w>/d(theta, rows)."""

    grad: Theta
    h_theta: Theta
    h_rows: Rows


class StudentStep(Protocol):
    """What the engines need of a student step; nothing is modified in place."""

    def gradient(
        self, theta: Theta, batch: Batch, *, with_theta: bool = True, with_rows: bool
    ) -> tuple[Theta, Rows]:
        """Return dl/d(theta) and dl/d(rows), detached; each is empty if not asked for."""

    def trace(self, theta: Theta, batch: Batch) -> None:
        """Evaluate l without a graph, for what observes the calls (kinks.py)."""

    def product(
        self, theta: Theta, batch: Batch, w: Theta, how: SecondOrder, *, with_theta: bool
    ) -> Product:
        """Return the exact product along w; its `h_theta` is empty without
        `with_theta`.
        """


class WholeBatch:
    """A student step on the whole mini-batch at once.

    Args:
        loss_fn: `loss_fn(theta, rows, step) -> scalar`.
        encode: applied to rows["images"] before `loss_fn`, or None.
    """

    def __init__(self, loss_fn: LossFn, encode: Encode | None = None) -> None:
        self._loss_fn, self._encode = loss_fn, encode

    def loss(self, theta: Theta, rows: Rows, batch: Batch) -> Tensor:
        """Return l with `rows` in place of those of the batch."""
        rows = {**batch.constants, **rows}
        if self._encode is not None:
            rows[IMAGES] = self._encode(theta, rows[IMAGES])
        return self._loss_fn(theta, rows, batch.step)

    def gradient(
        self, theta: Theta, batch: Batch, *, with_theta: bool = True, with_rows: bool
    ) -> tuple[Theta, Rows]:
        wanted = leaves(theta) if with_theta else {}
        if with_rows:
            wanted |= leaves(batch.rows)
        if not wanted:
            return {}, {}
        at, rows = split({**theta, **batch.rows, **wanted})
        loss = self.loss(at, rows, batch)
        found = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
        return split(dict(zip(wanted, found, strict=True)))

    def trace(self, theta: Theta, batch: Batch) -> None:
        with torch.no_grad():
            self.loss(theta, batch.rows, batch)

    def product(
        self, theta: Theta, batch: Batch, w: Theta, how: SecondOrder, *, with_theta: bool
    ) -> Product:
        wanted = [*(GROUPS if with_theta else ()), *batch.rows]
        grad, changes = how.change(
            lambda at: self.loss(*split(at), batch), {**theta, **batch.rows}, w, wanted
        )
        return Product(grad, *split(changes))


def split(tensors: Tensors) -> tuple[Theta, Rows]:
    """Return the parameters and the rows of one dictionary."""
    theta: Theta = {}
    rows: Rows = {}
    for name, value in tensors.items():
        (theta if name in GROUPS else rows)[name] = value
    return theta, rows


def draw_batches(
    num_pairs: int, batch_size: int, num_steps: int, generator: torch.Generator
) -> list[Tensor]:
    """Return `num_steps` index tensors (batch_size,): every pair once before any twice, no pair
    twice in one batch.

    Raises:
        ValueError: the batch is larger than the set.
    """
    if not 1 <= batch_size <= num_pairs:
        raise ValueError(
            f"a mini-batch of {batch_size} pairs cannot be drawn from {num_pairs} pairs; allowed "
            f"is 1 to {num_pairs}; "
            "change mini_batch_size or the number of pairs"
        )
    device = generator.device
    pool = torch.empty(0, dtype=torch.long, device=device)
    batches = []
    for _ in range(num_steps):
        if len(pool) < batch_size:
            fresh = torch.randperm(num_pairs, generator=generator, device=device)
            # A batch that crosses into the next pass takes first those that it does not hold
            # already.
            is_held = torch.isin(fresh, pool)
            pool = torch.cat([pool, fresh[~is_held], fresh[is_held]])
        batches.append(pool[:batch_size])
        pool = pool[batch_size:]
    return batches
