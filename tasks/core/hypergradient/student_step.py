"""Differentiates one student step, l(theta; rows of a mini-batch), once and twice (METHOD 5).

`StudentStep` takes the whole batch at once. `MicroBatches` (micro_batches.py) takes it in parts,
with the same result. The engines of `trajectory.py` work with either.

Shapes: P parameters of a group, B pairs of the mini-batch, M pairs of the set. `Theta` is
{"img": (P_img,), "txt": (P_txt,)}. `Rows` holds tensors (B, ...) by name, one row a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.hypergradient.second_order import SecondOrder, Tensors, gradient, leaves
from tasks.core.networks.functional import GROUPS, Theta

Rows = dict[str, Tensor]
LossFn = Callable[[Theta, Rows, int], Tensor]
Encode = Callable[[Theta, Tensor], Tensor]

IMAGES = "images"


@dataclass(frozen=True)
class Batch:
    """The rows of one student step.

    Attributes:
        step: its number, 0 .. T-1; a loss draws its dropout by it.
        rows: differentiated, (B, ...) each.
        constants: not differentiated, (B, ...) each.
    """

    step: int
    rows: Rows
    constants: Rows


@dataclass(frozen=True)
class Product:
    """What the reverse sweep needs of one step.

    Attributes:
        grad: g = grad_theta l, {"img": (P_img,), "txt": (P_txt,)}.
        h_theta: d<g, w>/d(theta), of the same shapes; empty where nobody asks for it.
        h_rows: d<g, w>/d(rows), (B, ...) each.
    """

    grad: Theta
    h_theta: Theta
    h_rows: Rows


class StudentStep:
    """A student step on the whole mini-batch at once; no method modifies anything in place.

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
        """Return dl/d(theta) and dl/d(rows), detached; each is empty if not asked for."""
        # Only the wanted tensors are leaves. Layers in front of them record no graph and keep no
        # activations.
        wanted = leaves(theta) if with_theta else {}
        if with_rows:
            wanted |= leaves(batch.rows)
        at, rows = split({**theta, **batch.rows, **wanted})
        loss = self.loss(at, rows, batch)
        return split(gradient(loss, wanted))

    def trace(self, theta: Theta, batch: Batch) -> None:
        """Evaluate l without a graph, for what observes the calls (kinks.py)."""
        with torch.no_grad():
            self.loss(theta, batch.rows, batch)

    def product(
        self, theta: Theta, batch: Batch, w: Theta, how: SecondOrder, *, with_theta: bool
    ) -> Product:
        """Return h along w by the second derivatives of `how`, and g with it; `h_theta` is empty
        without `with_theta`.
        """
        groups = GROUPS if with_theta else ()
        wanted = [*groups, *batch.rows]
        grad, changes = how.change(
            lambda at: self.loss(*split(at), batch), {**theta, **batch.rows}, w, wanted
        )
        return Product(grad, *split(changes))


def split(tensors: Tensors) -> tuple[Theta, Rows]:
    """Return the parameters and the rows of one dictionary, told apart by the names of groups."""
    theta: Theta = {}
    rows: Rows = {}
    for name, value in tensors.items():
        (theta if name in GROUPS else rows)[name] = value
    return theta, rows


def draw_batches(
    num_pairs: int, batch_size: int, num_steps: int, generator: torch.Generator
) -> list[Tensor]:
    """Return `num_steps` index tensors (B,) into the M pairs, B = `batch_size`.

    Every pair comes once before any comes twice, and no pair comes twice in one batch. Random from
    `generator`; the batches are on its device.
    """
    assert 1 <= batch_size <= num_pairs, "OuterState takes no larger batch than the set"
    device = generator.device
    pool = torch.empty(0, dtype=torch.long, device=device)
    batches = []
    for _ in range(num_steps):
        if len(pool) < batch_size:
            fresh = torch.randperm(num_pairs, generator=generator, device=device)
            # The rest of a pass begins the next batch. Pairs of this rest go to the end of the new
            # pass, so that the batch does not hold them twice.
            is_held = torch.isin(fresh, pool)
            pool = torch.cat([pool, fresh[~is_held], fresh[is_held]])
        batches.append(pool[:batch_size])
        pool = pool[batch_size:]
    return batches
