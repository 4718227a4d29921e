"""What a student step leaves behind in the forward sweep, and what the reverse sweep makes of it
(METHOD 5).

Every step keeps theta_t. `forward_difference` also keeps g_t and the gradient of the rows.
`central_difference` keeps g_0: no step comes before the first one, so nothing there asks for a
change of g. Two passes then save the gradient of theta. Both differences keep the kinks of the
network while these are smaller than theta. Otherwise one evaluation without a graph finds them
again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.hypergradient.differences import StepLength, central_difference, forward_difference
from tasks.core.hypergradient.kinks import Kinks
from tasks.core.hypergradient.second_order import DoubleBackward, ForwardOverReverse, Tensors
from tasks.core.hypergradient.student_step import Batch, Product, Rows, StudentStep
from tasks.core.networks.functional import Theta

DIFFERENCES = ("central_difference", "forward_difference")


@dataclass(frozen=True)
class _Kept:
    theta: Theta
    grad: Theta | None
    rows: Rows
    kinks: Kinks | None


class Sweep:
    """The steps of one student, put on a stack by `forward` and taken from it by `backward`.

    Args:
        student: the step.
        engine: how `backward` gets its products, any of `matching.ENGINES` but `unroll`.
        is_theta_on_host: keep all of it but kinks in pinned host memory; nothing changes where they
            are on the CPU already.
    """

    def __init__(self, student: StudentStep, engine: str, is_theta_on_host: bool) -> None:
        self._student, self._engine, self._is_on_host = student, engine, is_theta_on_host
        self._stack: list[_Kept] = []
        self._are_kinks_kept = engine in DIFFERENCES
        self._length = StepLength(engine) if engine in DIFFERENCES else None
        # The empty record of a network that turned out to have no kink
        self._smooth: Kinks | None = None

    def forward(self, theta: Theta, batch: Batch) -> Theta:
        """Return g = grad_theta l(theta) and remember the step."""
        is_forward = self._engine == "forward_difference"
        kinks = self._smooth or (Kinks() if self._are_kinks_kept else None)
        if kinks is None or kinks is self._smooth:
            grad, rows = self._student.gradient(theta, batch, with_rows=is_forward)
        else:
            with kinks.recorded():
                grad, rows = self._student.gradient(theta, batch, with_rows=is_forward)
            if kinks.num_bytes == 0:
                self._smooth = kinks
            elif kinks.num_bytes > sum(value.nbytes for value in theta.values()):
                kinks, self._are_kinks_kept = None, False
        is_grad_kept = is_forward or (self._engine == "central_difference" and not self._stack)
        self._stack.append(
            _Kept(
                self._put_away(theta),
                self._put_away(grad) if is_grad_kept else None,
                self._put_away(rows),
                kinks,
            )
        )
        return grad

    def backward(self, batch: Batch, w: Theta) -> Product:
        """Return the product along w for the last step that is on the stack, and take it off; the
        first step's has no `theta`.
        """
        kept = self._stack.pop()
        with_theta = bool(self._stack)
        theta = _take_back(kept.theta, w)
        if self._length is not None:
            product = self._difference(
                kept, theta, batch, w, self._length.eps(theta, w), with_theta=with_theta
            )
            if with_theta:
                self._length.learn(product, w)
            return product
        if self._engine == "forward_over_reverse":
            return self._student.product(
                theta, batch, w, ForwardOverReverse(), with_theta=with_theta
            )
        return self._student.product(
            theta, batch, w, DoubleBackward(), with_theta=with_theta and self._engine != "tesla"
        )

    def _difference(
        self, kept: _Kept, theta: Theta, batch: Batch, w: Theta, eps: Tensor, *, with_theta: bool
    ) -> Product:
        kinks = kept.kinks
        if kinks is None:
            kinks = Kinks()
            with kinks.recorded():
                self._student.trace(theta, batch)
        grad = None if kept.grad is None else _take_back(kept.grad, w)
        if self._engine == "central_difference":
            return central_difference(
                self._student, theta, batch, w, eps, kinks, grad, with_theta=with_theta
            )
        assert grad is not None
        known = (grad, _take_back(kept.rows, w))
        return forward_difference(
            self._student, theta, batch, w, eps, kinks, known, with_theta=with_theta
        )

    def _put_away(self, tensors: Tensors) -> Tensors:
        """Copies in pinned host memory, queued without waiting; on the CPU, or if not asked for,
        the same tensors.
        """
        if not self._is_on_host or all(value.device.type == "cpu" for value in tensors.values()):
            return tensors
        host = {
            name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            for name, value in tensors.items()
        }
        return {name: host[name].copy_(value, non_blocking=True) for name, value in tensors.items()}


def _take_back(tensors: Tensors, like: Theta) -> Tensors:
    # Queued behind the copy that put the tensor away, on the same stream.
    return {
        name: value.to(like["txt"].device, non_blocking=True) for name, value in tensors.items()
    }
