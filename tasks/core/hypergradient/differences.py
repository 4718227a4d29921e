"""Second-order products by finite differences of the gradient (METHOD 5): no second derivative of
any operation is needed.

How far to go along w, |eps w|, decides the error: truncation grows with it, O(eps^2) or O(eps),
rounding falls, O(1 / eps). The best length follows the curvature of the network at hand
(`StepLength`). Where the network has kinks (ReLU, max pooling), theta + eps w is evaluated in the
pieces of theta: see `kinks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.hypergradient.kinks import Kinks
from tasks.core.hypergradient.second_order import Tensors
from tasks.core.hypergradient.student_step import Batch, Product, Rows, StudentStep
from tasks.core.networks.functional import GROUPS, Theta


@dataclass(frozen=True)
class _Rule:
    """Where to go at the first product, |eps w| / |theta|, and how much the gradient shall change
    afterwards, |dg| / |g|.
    """

    first: float
    change: float


# Measured against `unroll` over 4 to 8 steps in float32, as relative errors of the gradients of
# images and texts: at these changes NF-net, ViT, ResNet and MobileNetV2 are off by 2e-3 to 6e-3
# one-sided and 2e-4 to 5e-4 central, within a factor of two of each network's best. Their best |eps
# w| / |theta| would lie between 2e-6 and 5e-5 one-sided, 2e-5 and 1e-4 central; first products are
# off by up to 1e-2 and 3e-3. float64 follows from the orders of the errors.
_RULES = {
    "central_difference": {torch.float32: _Rule(5e-5, 4e-3), torch.float64: _Rule(5e-8, 5e-6)},
    "forward_difference": {torch.float32: _Rule(1e-5, 7e-4), torch.float64: _Rule(5e-10, 3e-8)},
}
_FARTHEST = 20.0  # a later length may be that many times shorter or longer than the first rule's


class StepLength:
    """The length |eps w| of the products of one reverse sweep.

    How far a gradient stays linear, in units of |theta|, differs between networks by two orders of
    magnitude. So the change of the gradient is held instead. The product at step t + 1 tells the
    curvature |H w| / |w|. The length at step t is the one at which the gradient would change by a
    fixed part of itself. The first product has no predecessor; its length is a fixed part of
    |theta|. No synchronisation with the device.

    Args:
        engine: `central_difference` or `forward_difference`.
    """

    def __init__(self, engine: str) -> None:
        self._rules = _RULES[engine]
        self._length: Tensor | None = None

    def eps(self, theta: Theta, w: Theta) -> Tensor:
        """Return eps for the direction `w`, a scalar."""
        norm_w, first = _norm(w), self._rule(theta).first * _or_one(_norm(theta))
        length = (
            first
            if self._length is None
            else self._length.clamp(first / _FARTHEST, first * _FARTHEST)
        )
        return length / _or_one(norm_w)

    def learn(self, product: Product, w: Theta) -> None:
        """Take the length of the next product from this one, which has the change of the gradient
        in theta.
        """
        change = self._rule(product.grad).change
        self._length = (
            change * _norm(product.grad) * _or_one(_norm(w)) / _or_one(_norm(product.theta))
        )

    def _rule(self, theta: Theta) -> _Rule:
        return self._rules.get(theta["txt"].dtype, self._rules[torch.float32])


def central_difference(
    student: StudentStep,
    theta: Theta,
    batch: Batch,
    w: Theta,
    eps: Tensor,
    kinks: Kinks,
    known: Theta | None,
    *,
    with_theta: bool,
) -> Product:
    """Return the product by [grad(theta + eps w) - grad(theta - eps w)] / (2 eps): two gradients,
    error O(eps^2).

    Args:
        eps: a scalar, of `StepLength`.
        kinks: the pieces of theta.
        known: grad(theta); None: the mean of both sides, which it is to O(eps^2), so that no third
            pass is needed.
        with_theta: as of `StudentStep.product`; without it both gradients are those of the rows
            alone, and `known` is needed.
    """
    with kinks.imposed():
        grad_plus, rows_plus = student.gradient(
            _moved(theta, eps, w), batch, with_theta=with_theta, with_rows=True
        )
    with kinks.imposed():
        grad_minus, rows_minus = student.gradient(
            _moved(theta, -eps, w), batch, with_theta=with_theta, with_rows=True
        )
    return Product(
        grad={group: (grad_plus[group] + grad_minus[group]) / 2 for group in GROUPS}
        if known is None
        else known,
        theta=_slope(grad_plus, grad_minus, 2 * eps),
        rows=_slope(rows_plus, rows_minus, 2 * eps),
    )


def forward_difference(
    student: StudentStep,
    theta: Theta,
    batch: Batch,
    w: Theta,
    eps: Tensor,
    kinks: Kinks,
    known: tuple[Theta, Rows],
    *,
    with_theta: bool,
) -> Product:
    """Return the product by [grad(theta + eps w) - grad(theta)] / eps: one gradient, error O(eps).

    Args:
        eps: a scalar, of `StepLength`.
        kinks: the pieces of theta.
        known: grad(theta) with respect to theta and rows, from the forward sweep.
        with_theta: as of `StudentStep.product`; without it the gradient is that of the rows alone.
    """
    grad, row_grads = known
    with kinks.imposed():
        grad_plus, rows_plus = student.gradient(
            _moved(theta, eps, w), batch, with_theta=with_theta, with_rows=True
        )
    return Product(
        grad=grad,
        theta=_slope(grad_plus, grad, eps),
        rows=_slope(rows_plus, row_grads, eps),
    )


def _moved(theta: Theta, eps: Tensor, w: Theta) -> Theta:
    return {group: torch.addcmul(theta[group], w[group], eps) for group in GROUPS}


def _slope(there: Tensors, here: Tensors, distance: Tensor) -> Tensors:
    # In place where the tensor is ours: one vector of the length of theta less.
    return {name: (value - here[name]).div_(distance) for name, value in there.items()}


def _norm(theta: Theta) -> Tensor:
    return torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(theta[group]) for group in GROUPS])
    )


def _or_one(norm: Tensor) -> Tensor:
    return torch.where(norm > 0, norm, 1.0)
