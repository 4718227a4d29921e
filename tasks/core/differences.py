"""Second-order products by finite differences of the gradient (METHOD 5): no second derivative of any operation is needed.

Where the network has kinks (ReLU, max pooling), theta + eps w is evaluated in the pieces of theta: see `kinks.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.functional import GROUPS, Theta
from tasks.core.kinks import Kinks
from tasks.core.student_step import Batch, Product, Rows, StudentStep

# |eps w| / |theta|: balances truncation, O(eps^2) or O(eps), against rounding, O(1 / eps), for each precision. Measured
# against `unroll` in float64 over T = 3 steps, as the relative error of each input's gradient, in float32: NF-net, ViT, LoRA-ViT and
# heads 1e-4 to 9e-4 central, 1e-3 to 3e-3 one-sided; MobileNetV2 with all of it trained 2e-3 and 1e-2. Halving or
# doubling eps changes little; one-sided with 1e-4 is four times worse.
_CENTRAL = {torch.float64: 1e-7}
_CENTRAL_DEFAULT = 5e-5
_FORWARD = {torch.float64: 1e-9}
_FORWARD_DEFAULT = 2e-5


def central_difference(
    student: StudentStep, theta: Theta, batch: Batch, w: Theta, kinks: Kinks, known: Theta | None, *, with_theta: bool
) -> Product:
    """Return the product by [grad(theta + eps w) - grad(theta - eps w)] / (2 eps): two gradients, error O(eps^2).

    Args:
        kinks: the pieces of theta.
        known: grad(theta); None: the mean of both sides, which it is to O(eps^2), so that no third pass is needed.
        with_theta: as of `StudentStep.product`; without it both gradients are those of the rows alone, and `known` is needed.
    """
    eps = _eps(theta, w, _CENTRAL.get(theta["txt"].dtype, _CENTRAL_DEFAULT))
    with kinks.imposed():
        grad_plus, rows_plus = student.gradient(_moved(theta, eps, w), batch, with_theta=with_theta, with_rows=True)
    with kinks.imposed():
        grad_minus, rows_minus = student.gradient(_moved(theta, -eps, w), batch, with_theta=with_theta, with_rows=True)
    return Product(
        grad={group: (grad_plus[group] + grad_minus[group]) / 2 for group in GROUPS} if known is None else known,
        theta={group: (grad_plus[group] - grad_minus[group]) / (2 * eps) for group in grad_plus},
        rows={name: (rows_plus[name] - rows_minus[name]) / (2 * eps) for name in batch.rows},
    )


def forward_difference(
    student: StudentStep, theta: Theta, batch: Batch, w: Theta, kinks: Kinks, known: tuple[Theta, Rows], *, with_theta: bool
) -> Product:
    """Return the product by [grad(theta + eps w) - grad(theta)] / eps: one gradient, error O(eps).

    Args:
        kinks: the pieces of theta.
        known: grad(theta) with respect to theta and rows, from the forward sweep.
        with_theta: as of `StudentStep.product`; without it the gradient is that of the rows alone.
    """
    eps = _eps(theta, w, _FORWARD.get(theta["txt"].dtype, _FORWARD_DEFAULT))
    grad, row_grads = known
    with kinks.imposed():
        grad_plus, rows_plus = student.gradient(_moved(theta, eps, w), batch, with_theta=with_theta, with_rows=True)
    return Product(
        grad=grad,
        theta={group: (grad_plus[group] - grad[group]) / eps for group in grad_plus},
        rows={name: (rows_plus[name] - row_grads[name]) / eps for name in batch.rows},
    )


def _moved(theta: Theta, eps: Tensor, w: Theta) -> Theta:
    return {group: torch.addcmul(theta[group], w[group], eps) for group in GROUPS}


def _eps(theta: Theta, w: Theta, relative: float) -> Tensor:
    """Return eps with |eps w| = relative |theta|, a scalar; no synchronisation with the device."""
    norm_w, norm_theta = _norm(w), _norm(theta)
    return relative * torch.where(norm_theta > 0, norm_theta, 1.0) / torch.where(norm_w > 0, norm_w, 1.0)


def _norm(theta: Theta) -> Tensor:
    return torch.stack([theta[group].square().sum() for group in GROUPS]).sum().sqrt()
