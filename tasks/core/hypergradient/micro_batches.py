"""Differentiates a student step in micro-batches: the gradients of the whole batch, in the memory
of a few images.

The contrastive loss couples the pairs of a batch, so averaging the gradients of its parts would be
wrong. Let l(theta, x) = head(theta, f) and f_m = encode(theta, x_m) for a part m of the images. The
head (projections, dropout, loss) sees all features at once, and only the encoder is cut. This is
GradCache (arXiv 2101.06983), carried on to second order:

* gradient: compute f without a graph and c = d head/d f. Then add up the gradients of
  <encode(theta, x_m), c_m> over the parts.
* products along w: compute f' = (d encode/d theta) w per part. The head's gradient along (w, f')
  gives c, its change c' and the head's share. Then add up the changes of the gradients of
  <encode(theta, x_m), c_m> along (w, c'_m).

Cost beside the whole batch: one more forward pass of the encoder, for the products one more
derivative along w.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.hypergradient.second_order import SecondOrder, Tensors, each, gradient, leaves
from tasks.core.hypergradient.student_step import (
    IMAGES,
    Batch,
    Encode,
    LossFn,
    Product,
    Rows,
    StudentStep,
    split,
)
from tasks.core.networks.functional import GROUPS, Theta

_COTANGENT = "cotangent"


class MicroBatches(StudentStep):
    """A student step whose encoder runs on at most `size` images at a time.

    Args:
        loss_fn: `loss_fn(theta, rows, step) -> scalar`, called with rows["images"] = features (B,
            F) of the whole batch.
        encode: `encode(theta, images) -> features`, row by row: no image may influence another
            one's features.
        size: images per part, at least 1; the last part may be smaller.
    """

    def __init__(self, loss_fn: LossFn, encode: Encode, size: int) -> None:
        # The base class gets no encoder, so it differentiates the head alone. Its rows called
        # `images` are features.
        super().__init__(loss_fn)
        self._encode_part, self._size = encode, size

    def gradient(
        self, theta: Theta, batch: Batch, *, with_theta: bool = True, with_rows: bool
    ) -> tuple[Theta, Rows]:
        # c = d head/d f: the head sees the features of the whole batch
        parts = self._parts(batch)
        head = _head_batch(batch, self._features(theta, batch), with_rows=with_rows)
        grad, row_grads = super().gradient(theta, head, with_theta=with_theta, with_rows=True)
        cotangents = row_grads.pop(IMAGES).split(self._size)
        is_image_wanted = with_rows and IMAGES in batch.rows
        pulled: list[Tensor] = []
        # Part by part, <encode(theta, x_m), c_m> has the gradient of the whole loss
        for part, cotangent in zip(parts, cotangents, strict=True):
            at = leaves(theta) if with_theta else {}
            if is_image_wanted:
                at |= leaves({IMAGES: part})
            if not at:  # neither theta nor the images are asked for
                break
            features = self._encode_part({**theta, **split(at)[0]}, at.get(IMAGES, part))
            found = gradient(features, at, cotangent)
            grad = each(torch.add, grad, found)
            if is_image_wanted:
                pulled.append(found[IMAGES])
        if is_image_wanted:
            row_grads[IMAGES] = torch.cat(pulled)
        return grad, row_grads

    def trace(self, theta: Theta, batch: Batch) -> None:
        super().trace(theta, _head_batch(batch, self._features(theta, batch), with_rows=False))

    def product(
        self, theta: Theta, batch: Batch, w: Theta, how: SecondOrder, *, with_theta: bool
    ) -> Product:
        parts = self._parts(batch)

        def encode(at: Tensors) -> Tensor:
            return self._encode_part(split(at)[0], at[IMAGES])

        def against(at: Tensors) -> Tensor:
            return (encode(at) * at[_COTANGENT]).sum()

        # f and f' = (d encode/d theta) w, one part at a time
        pushed = [how.push(encode, {**theta, IMAGES: part}, w) for part in parts]
        features, along = (torch.cat(pieces) for pieces in zip(*pushed, strict=True))
        # The head's share of h, the cotangent c and its change c', for the whole batch
        head = _head_batch(batch, features, with_rows=True)
        groups = GROUPS if with_theta else ()
        grads, changes = how.change(
            lambda at: self.loss(*split(at), head),
            {**theta, **head.rows},
            {**w, IMAGES: along},
            [*groups, *head.rows],
        )
        cotangents = grads.pop(IMAGES).split(self._size)
        turns = changes.pop(IMAGES).split(self._size)
        (grad, _), (h_theta, h_rows) = split(grads), split(changes)
        is_image_wanted = IMAGES in batch.rows
        wanted = [*groups, IMAGES] if is_image_wanted else groups
        # The encoder's share of h: <encode(theta, x_m), c_m> changes with theta along w and with
        # c_m along c'_m
        pulled = []
        for part, cotangent, turn in zip(parts, cotangents, turns, strict=True):
            found, change = how.change(
                against,
                {**theta, IMAGES: part, _COTANGENT: cotangent},
                {**w, _COTANGENT: turn},
                wanted,
            )
            grad, h_theta = each(torch.add, grad, found), each(torch.add, h_theta, change)
            if is_image_wanted:
                pulled.append(change[IMAGES])
        if is_image_wanted:
            h_rows[IMAGES] = torch.cat(pulled)
        return Product(grad, h_theta, h_rows)

    def _features(self, theta: Theta, batch: Batch) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._encode_part(theta, part) for part in self._parts(batch)])

    def _parts(self, batch: Batch) -> tuple[Tensor, ...]:
        return {**batch.constants, **batch.rows}[IMAGES].split(self._size)


def _head_batch(batch: Batch, features: Tensor, *, with_rows: bool) -> Batch:
    """Return the batch that the head sees: features in place of images, always differentiated."""
    if with_rows:
        return Batch(batch.step, {**batch.rows, IMAGES: features}, batch.constants)
    return Batch(batch.step, {IMAGES: features}, {**batch.constants, **batch.rows})
