"""Computes how the gradient of a scalar function changes along a direction, exactly, in two ways.

Let phi(a, b, ...) be a scalar and w a direction in some of its arguments. `change` returns the
gradients of phi and d/d(eps) of them at (a, b, ...) + eps w, for eps = 0. Second derivatives
commute. So this change equals d/d(each) <gradient, w>, the product h of METHOD 5. `push` returns
the value of any function and its change along w.

`ForwardOverReverse` needs a forward derivative of each operation and of its reverse derivative.
`DoubleBackward` needs a second reverse derivative. The fused kernels of attention have neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Scalar = Callable[[Tensors], Tensor]


class ForwardOverReverse:
    """The derivative of the gradient along the direction (jvp of grad)."""

    def push(self, function: Scalar, at: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        """Return f(at), of any shape, and its change along `along`, a direction in some of the
        arguments.
        """
        with torch.no_grad():
            # A forward derivative needs no reverse graph, so none is recorded
            # Without aux it returns two, which its annotation does not say.
            value, change = torch.func.jvp(  # type: ignore[misc]
                lambda moved: function({**at, **moved}), (_part(at, along),), (along,)
            )
        return value, change

    def change(
        self, phi: Scalar, at: Tensors, along: Tensors, wanted: Sequence[str]
    ) -> tuple[Tensors, Tensors]:
        """Return the gradients of phi in the arguments of `along`, and the change along it of the
        gradients in `wanted`.
        """

        def gradients(moved: Tensors) -> Tensors:
            here = {**at, **moved}
            differentiate = torch.func.grad(lambda part: phi({**here, **part}))
            found: Tensors = differentiate(_part(here, _named(at, along, wanted)))
            return found

        # One forward derivative of `gradients` gives both their values and their changes
        grads, changes = torch.func.jvp(  # type: ignore[misc]
            gradients, (_part(at, along),), (along,)
        )
        return _part(grads, along), _part(changes, wanted)


class DoubleBackward:
    """The gradient of <gradient, direction> (reverse over reverse); methods as above."""

    def push(self, function: Scalar, at: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        # J w by reverse derivatives alone: J^T v is linear in v, so d/dv <J^T v, w> = J w at any v.
        # v = 0 serves as well as another.
        at = {**at, **leaves(_part(at, along))}
        value = function(at)
        v = torch.zeros_like(value, requires_grad=True)
        pulled = gradient(value, _part(at, along), v, create_graph=True)
        change = gradient(inner(pulled, along), {"v": v})["v"]
        return value.detach(), change.detach()

    def change(
        self, phi: Scalar, at: Tensors, along: Tensors, wanted: Sequence[str]
    ) -> tuple[Tensors, Tensors]:
        at = {**at, **leaves(_part(at, _named(at, along, wanted)))}
        grads = gradient(phi(at), _part(at, along), create_graph=True)
        # h = d/d(wanted) <gradient, w>: the second reverse derivative
        changes = gradient(inner(grads, along), _part(at, wanted))
        return each(torch.detach, grads), changes


SecondOrder = ForwardOverReverse | DoubleBackward


def each(function: Callable[..., Tensor], *tensors: Tensors) -> Tensors:
    """Return function(a, b, ...) of the tensors that have one name, for the names of the first."""
    found = {}
    for name in tensors[0]:
        found[name] = function(*[part[name] for part in tensors])
    return found


def leaves(tensors: Tensors) -> Tensors:
    """Return detached tensors that share memory with the given ones and record a graph."""
    return each(lambda value: value.detach().requires_grad_(), tensors)


def gradient(
    value: Tensor, wanted: Tensors, v: Tensor | None = None, *, create_graph: bool = False
) -> Tensors:
    """Return (d value / d each)^T v, zeros where the value does not depend on it.

    Args:
        wanted: leaves that the value was computed from.
        v: shaped like the value; None for a scalar.
        create_graph: record what a further derivative needs.
    """
    # autograd.grad refuses a value without a graph, such as a loss of constants alone
    if not wanted or not value.requires_grad:
        return each(torch.zeros_like, wanted)
    found = torch.autograd.grad(
        value, list(wanted.values()), v, create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(wanted, found, strict=True))


def inner(a: Tensors, b: Tensors) -> Tensor:
    """Return <a, b> over the tensors of `a`, a scalar."""
    return torch.stack([(value * b[name]).sum() for name, value in a.items()]).sum()


def _named(at: Tensors, along: Tensors, wanted: Sequence[str]) -> list[str]:
    return [name for name in at if name in along or name in wanted]


def _part(tensors: Tensors, names: Iterable[str]) -> Tensors:
    return {name: tensors[name] for name in names}
