"""Keeps a student's steps and forms their second-order products as finite differences of the
gradient (METHOD 5). No operation needs a second derivative.

Every step keeps theta_t. One-sided differences also keep g_t and the gradient of the rows. Central
differences keep only g_0: at step 0 no h_theta is needed, so its two passes give no gradient in
theta that g_0 could be averaged from. Both kinds keep the kinks of the network while these take
less memory than theta. Otherwise one evaluation without a graph finds them again.

The length |eps w| decides the error. The truncation error grows with it, as O(eps^2) or O(eps). The
rounding error falls, as O(1 / eps). `StepLength` finds the best length from the curvature of the
network. Where the network has kinks (ReLU, max pooling), theta + eps w is evaluated in the pieces
of theta: see `kinks.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.hypergradient.kinks import Kinks
from tasks.core.hypergradient.second_order import Tensors, each
from tasks.core.hypergradient.student_step import Batch, Product, Rows, StudentStep
from tasks.core.hypergradient.sweep import put_away, take_back
from tasks.core.networks.functional import GROUPS, Theta


@dataclass(frozen=True)
class _Length:
    """How far a difference goes.

    Attributes:
        first: |eps w| / |theta| at the first product.
        change: |change of g| / |g| that later products aim at.
    """

    first: float
    change: float


@dataclass(frozen=True)
class Rules:
    """One kind of difference quotient.

    Attributes:
        is_one_sided: true for [grad(theta + eps w) - grad(theta)] / eps, which takes one further
            gradient and has error O(eps). False for [grad(theta + eps w) - grad(theta - eps w)] /
            (2 eps), which takes two and has error O(eps^2).
        lengths: by the dtype of theta; other dtypes take the lengths of float32.
    """

    is_one_sided: bool
    lengths: Mapping[torch.dtype, _Length]


# Measured against `unroll` over 4 to 8 steps in float32, as relative errors of the gradients of
# images and texts: at these changes NF-net, ViT, ResNet and MobileNetV2 are off by 2e-3 to 6e-3
# one-sided and 2e-4 to 5e-4 central, within a factor of two of each network's best. Their best |eps
# w| / |theta| would lie between 2e-6 and 5e-5 one-sided, 2e-5 and 1e-4 central; first products are
# off by up to 1e-2 and 3e-3. float64 follows from the orders of the errors.
CENTRAL = Rules(False, {torch.float32: _Length(5e-5, 4e-3), torch.float64: _Length(5e-8, 5e-6)})
ONE_SIDED = Rules(True, {torch.float32: _Length(1e-5, 7e-4), torch.float64: _Length(5e-10, 3e-8)})
# A later length lies within this factor of the first one, in case one measured curvature is odd
_FARTHEST = 20.0


class StepLength:
    """The length |eps w| of the products of one reverse sweep.

    A gradient stays linear over some length. In units of |theta|, that length differs between
    networks by two orders of magnitude. So the rule does not fix the length but the change of the
    gradient, |change of g| / |g|. The product at step t + 1 tells the curvature |H w| / |w|. The
    length at step t follows from it. The first product has no predecessor: its length is a fixed
    part of |theta|. Lengths stay on the device, which is never waited for.

    Args:
        rules: `CENTRAL` or `ONE_SIDED`.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._length: Tensor | None = None

    def eps(self, theta: Theta, w: Theta) -> Tensor:
        """Return eps for the direction `w`, a scalar."""
        first = self._rule(theta).first * _or_one(_norm(theta))
        length = first
        if self._length is not None:
            length = self._length.clamp(first / _FARTHEST, first * _FARTHEST)
        return length / _or_one(_norm(w))

    def learn(self, product: Product, w: Theta) -> None:
        """Set the length of the next product from this one, which must have its `h_theta`."""
        # h_theta is H w. Solve |eps H w| = change * |g| for the length |eps w|.
        change = self._rule(product.grad).change * _norm(product.grad)
        self._length = change * _or_one(_norm(w)) / _or_one(_norm(product.h_theta))

    def _rule(self, theta: Theta) -> _Length:
        lengths = self._rules.lengths
        return lengths.get(theta["txt"].dtype, lengths[torch.float32])


@dataclass(frozen=True)
class _Kept:
    """What one step leaves for the sweep.

    Attributes:
        grad: dl/d(theta) at theta; None where the sweep finds it without.
        rows: dl/d(rows) at theta; empty for central differences.
        kinks: the pieces at theta; None where they were too large to keep.
    """

    theta: Theta
    grad: Theta | None
    rows: Rows
    kinks: Kinks | None


class DifferenceSteps:
    """The `Steps` of the difference engines.

    Args:
        student: one step.
        is_theta_on_host: keep all but the kinks in pinned host memory.
        rules: `CENTRAL` or `ONE_SIDED`.
    """

    def __init__(self, student: StudentStep, is_theta_on_host: bool, *, rules: Rules) -> None:
        self._student, self._is_on_host = student, is_theta_on_host
        self._is_one_sided, self._length = rules.is_one_sided, StepLength(rules)
        self._stack: list[_Kept] = []
        self._are_kinks_kept = True
        # The empty record of a network without kinks. Later steps share it and record nothing.
        self._smooth: Kinks | None = None

    def forward(self, theta: Theta, batch: Batch) -> Theta:
        kinks = self._smooth or (Kinks() if self._are_kinks_kept else None)
        if kinks is None or kinks is self._smooth:
            grad, rows = self._student.gradient(theta, batch, with_rows=self._is_one_sided)
        else:
            with kinks.recorded():
                grad, rows = self._student.gradient(theta, batch, with_rows=self._is_one_sided)
            if kinks.num_bytes == 0:
                self._smooth = kinks
            # A record larger than theta would more than double the memory of a step
            elif kinks.num_bytes > sum(value.nbytes for value in theta.values()):
                kinks, self._are_kinks_kept = None, False
        # An empty stack means step 0: see the first paragraph of this file
        is_grad_kept = self._is_one_sided or not self._stack
        kept_grad = self._put_away(grad) if is_grad_kept else None
        self._stack.append(_Kept(self._put_away(theta), kept_grad, self._put_away(rows), kinks))
        return grad

    def backward(self, batch: Batch, w: Theta) -> Product:
        kept = self._stack.pop()
        with_theta = bool(self._stack)
        theta = take_back(kept.theta, w)
        # The sweep goes back: the product of step t + 1 has set the length for step t
        eps = self._length.eps(theta, w)
        kinks = kept.kinks or self._kinks_at(theta, batch)
        grad = None if kept.grad is None else take_back(kept.grad, w)
        there, rows_there = self._moved(theta, eps, w, batch, kinks, with_theta=with_theta)
        if self._is_one_sided:
            assert grad is not None, "one-sided differences keep the gradient of every step"
            distance, here, rows_here = eps, grad, take_back(kept.rows, w)
        else:
            distance = 2 * eps
            here, rows_here = self._moved(theta, -eps, w, batch, kinks, with_theta=with_theta)
        if grad is None:
            # The mean of both sides is grad(theta) up to O(eps^2), which saves a third pass
            grad = each(lambda a, b: (a + b) / 2, there, here)
        h_theta, h_rows = _slope(there, here, distance), _slope(rows_there, rows_here, distance)
        product = Product(grad, h_theta, h_rows)
        if with_theta:
            self._length.learn(product, w)
        return product

    def _moved(
        self, theta: Theta, eps: Tensor, w: Theta, batch: Batch, kinks: Kinks, *, with_theta: bool
    ) -> tuple[Theta, Rows]:
        """Return the gradients at theta + eps w in the pieces of theta."""
        moved = each(lambda at, way: torch.addcmul(at, way, eps), theta, w)
        with kinks.imposed():
            return self._student.gradient(moved, batch, with_theta=with_theta, with_rows=True)

    def _kinks_at(self, theta: Theta, batch: Batch) -> Kinks:
        kinks = Kinks()
        with kinks.recorded():
            self._student.trace(theta, batch)
        return kinks

    def _put_away(self, tensors: Tensors) -> Tensors:
        return put_away(tensors, is_on_host=self._is_on_host)


def _slope(there: Tensors, here: Tensors, distance: Tensor) -> Tensors:
    # a - b is a new tensor: dividing it in place saves one more vector of the length of theta
    return each(lambda a, b: (a - b).div_(distance), there, here)


def _norm(theta: Theta) -> Tensor:
    return torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(theta[group]) for group in GROUPS])
    )


def _or_one(norm: Tensor) -> Tensor:
    # w or H w may be zero, and eps has to stay finite
    return torch.where(norm > 0, norm, 1.0)
