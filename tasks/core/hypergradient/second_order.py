"""Exact change of a scalar function's gradient along a direction, in two ways with one interface.

For phi(a, b, ...) and a direction w in some of its arguments: their gradients, and the change of
all gradients along w, which is also d/d(each) <gradient, w> since second derivatives commute.
`ForwardOverReverse` asks forward derivatives of every operation, `DoubleBackward` second reverse
ones; neither exists for the fused attention kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Scalar = Callable[[Tensors], Tensor]


class SecondOrder(Protocol):
    """One way to differentiate a gradient."""

    def push(self, function: Scalar, at: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        """Return f(at), of any shape, and its change along `along`, a direction in some of the
        arguments.
        """

    def change(
        self, phi: Scalar, at: Tensors, along: Tensors, wanted: Sequence[str]
    ) -> tuple[Tensors, Tensors]:
        """Return the gradients of phi in the arguments of `along`, and the change along it of the
        gradients in `wanted`.
        """


class ForwardOverReverse:
    """The derivative of the gradient along the direction (jvp of grad)."""

    def push(self, function: Scalar, at: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            moved = {name: at[name] for name in along}
            # Without aux it returns two, which its annotation does not say.
            value, change = torch.func.jvp(  # type: ignore[misc]
                lambda m: function({**at, **m}), (moved,), (along,)
            )
        return value, change

    def change(
        self, phi: Scalar, at: Tensors, along: Tensors, wanted: Sequence[str]
    ) -> tuple[Tensors, Tensors]:
        names = [name for name in at if name in along or name in wanted]

        def gradients(moved: Tensors) -> Tensors:
            here = {**at, **moved}
            found: Tensors = torch.func.grad(lambda part: phi({**here, **part}))(
                {name: here[name] for name in names}
            )
            return found

        moved = {name: at[name] for name in along}
        grads, changes = torch.func.jvp(  # type: ignore[misc]
            gradients, (moved,), (along,)
        )
        return {name: grads[name] for name in along}, {name: changes[name] for name in wanted}


class DoubleBackward:
    """The gradient of <gradient, direction> (reverse over reverse)."""

    def push(self, function: Scalar, at: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        # J w is the derivative of <J^T v, w> with respect to v, which does not depend on v.
        at = {**at, **leaves({name: at[name] for name in along})}
        value = function(at)
        v = torch.zeros_like(value, requires_grad=True)
        pulled = dict(zip(along, _gradient(value, [at[name] for name in along], v), strict=True))
        (change,) = _gradient(inner(pulled, along), [v], None)
        return value.detach(), change.detach()

    def change(
        self, phi: Scalar, at: Tensors, along: Tensors, wanted: Sequence[str]
    ) -> tuple[Tensors, Tensors]:
        at = {**at, **leaves({name: at[name] for name in at if name in along or name in wanted})}
        grads = dict(
            zip(along, _gradient(phi(at), [at[name] for name in along], None), strict=True)
        )
        changes = _gradient(
            inner(grads, along), [at[name] for name in wanted], None, create_graph=False
        )
        return {name: grad.detach() for name, grad in grads.items()}, dict(
            zip(wanted, changes, strict=True)
        )


def leaves(tensors: Tensors) -> Tensors:
    """Return detached tensors that share memory with the given ones and record a graph."""
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


def inner(a: Tensors, b: Tensors) -> Tensor:
    """Return <a, b> over the tensors of `a`, a scalar."""
    return torch.stack([(value * b[name]).sum() for name, value in a.items()]).sum()


def _gradient(
    value: Tensor, wanted: list[Tensor], v: Tensor | None, *, create_graph: bool = True
) -> tuple[Tensor, ...]:
    """Return (d value / d each)^T v, zeros where the value does not depend on it."""
    if not wanted or not value.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in wanted)
    found: tuple[Tensor, ...] = torch.autograd.grad(
        value, wanted, v, create_graph=create_graph, materialize_grads=True
    )
    return found
