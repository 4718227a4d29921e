"""Describes functions of torch with kinks by their pieces: which piece an element is in, and what
that piece computes. See `kinks.py`.

An element may lie exactly on a break. It then belongs to the piece whose derivative torch takes
there: `>` and `>=` below follow torch. Among the millions of units of a network this happens now
and then. The gradient must then equal that of the forward sweep, because any difference is divided
by eps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Break = Callable[[Tensor], Tensor]  # whether an element is past a point where the piece changes
Piece = Callable[[Tensor], Tensor] | float
Pieces = tuple[Sequence[Break], Sequence[Piece]]


def piece_numbers(x: Tensor, breaks: Sequence[Break]) -> Tensor:
    """Return the number of the piece of each element, uint8 in the shape and memory layout of x. It
    is the number of breaks that the element is past.
    """
    # A view of bool as bytes costs nothing, and a byte an element keeps the record small
    return functools.reduce(torch.add, [is_past(x).view(torch.uint8) for is_past in breaks])


def in_pieces(x: Tensor, numbers: Tensor, functions: Sequence[Piece]) -> Tensor:
    """Return f_n(x) where `numbers` is n.

    The result is a sum of products with 0 or 1. torch.where takes ten times as long on the CPU. For
    its derivative, a product with bytes keeps only the bytes.
    """
    terms: list[Tensor] = []
    for number, function in enumerate(functions):
        is_here = (numbers == number).view(torch.uint8)
        if number == 1 and len(functions) == 2:
            is_here = numbers  # with two pieces, the numbers 0 and 1 are this mask already
        if callable(function):
            terms.append(function(x) * is_here)
        elif function != 0.0:
            terms.append(is_here.to(x.dtype) * function)
    return functools.reduce(torch.add, terms)


def where_largest(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """Return which elements are the largest along `dim`, uint8 in the shape of x. Equal ones are
    all marked, since torch divides the gradient among them.
    """
    return (x == x.amax(dim, keepdim=True)).view(torch.uint8)


def mean_of(x: Tensor, chosen: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """Return the mean along `dim` of the chosen elements. At the x that `where_largest` chose them
    from, it is the maximum, with the same derivative as torch's.
    """
    return (x * chosen).sum(dim, keepdim=keepdim) / chosen.sum(dim, keepdim=keepdim).to(x.dtype)


def _same(x: Tensor) -> Tensor:
    return x


def _relu(*_: Any, **__: Any) -> Pieces:
    return (lambda x: x > 0.0,), (0.0, _same)


def _relu6(*_: Any, **__: Any) -> Pieces:
    return _hardtanh(0.0, 6.0)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, *_: Any, **__: Any) -> Pieces:
    return (lambda x: x > min_val, lambda x: x >= max_val), (float(min_val), _same, float(max_val))


def _clamp(min: Any = None, max: Any = None, **_: Any) -> Pieces | None:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return None
    if max is None:
        return (lambda x: x > min,), (float(min), _same)
    if min is None:
        return (lambda x: x >= max,), (_same, float(max))
    return _hardtanh(min, max)


def _clamp_max(max: Any, **_: Any) -> Pieces | None:
    return _clamp(None, max)


def _threshold(threshold: float, value: float, *_: Any, **__: Any) -> Pieces:
    return (lambda x: x > threshold,), (float(value), _same)


def _leaky_relu(negative_slope: float = 0.01, *_: Any, **__: Any) -> Pieces:
    return (lambda x: x > 0.0,), (lambda x: negative_slope * x, _same)


def _prelu(weight: Tensor) -> Pieces:
    def negative(x: Tensor) -> Tensor:
        is_one = weight.numel() == 1 or x.ndim < 2
        return (weight if is_one else weight.view(-1, *[1] * (x.ndim - 2))) * x

    return (lambda x: x > 0.0,), (negative, _same)


def _abs(*_: Any, **__: Any) -> Pieces:
    # 0 is a piece of its own: there torch takes the derivative 0, which neither side has
    return (lambda x: x >= 0.0, lambda x: x > 0.0), (lambda x: -x, 0.0, _same)


def _hardsigmoid(*_: Any, **__: Any) -> Pieces:
    return (lambda x: x > -3.0, lambda x: x >= 3.0), (0.0, lambda x: x / 6 + 0.5, 1.0)


def _hardswish(*_: Any, **__: Any) -> Pieces:
    return (lambda x: x > -3.0, lambda x: x >= 3.0), (0.0, lambda x: x * (x + 3) / 6, _same)


# Name -> (breaks, function of each piece), given the arguments that follow the tensor. `inplace` is
# among these arguments by name or, under torch.compile, by position. None stands for a call that is
# not covered: a clamp with bounds that are tensors.
_BY_NAME: dict[str, Callable[..., Pieces | None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky_relu,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "threshold": _threshold,
    "prelu": _prelu,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
    "abs": _abs,
}


def _named(ending: str) -> dict[Any, Callable[..., Pieces | None]]:
    """Return the kinds by function, wherever torch has one of the name and `ending`."""
    found: dict[Any, Callable[..., Pieces | None]] = {}
    for name, kind in _BY_NAME.items():
        for place in (functional, torch, torch.Tensor):
            function = getattr(place, name + ending, None)
            if function is not None:
                found[function] = kind
    return found


ACTIVATIONS = _named("")
IN_PLACE = _named("_")  # the same functions, which write into their argument
LARGEST = (torch.amax, torch.Tensor.amax)
# Pool -> the function that also returns where each maximum was found, as index into height x width.
POOLS: dict[Any, Callable[..., tuple[Tensor, Tensor]]] = {
    torch.max_pool2d: functional.max_pool2d_with_indices,
    functional.max_pool2d: functional.max_pool2d_with_indices,
    functional.adaptive_max_pool2d: functional.adaptive_max_pool2d_with_indices,
}
