"""Piecewise activations held in their piece, so that finite differences of a gradient are right for ReLU networks too.

The gradient of a network with ReLUs jumps wherever a unit crosses its kink. A step of eps crosses about eps * units of them,
each jump is divided by eps, and the difference measures jumps instead of curvature (MobileNetV2, float32: 10 to 1000 times
the gradient, for every eps). The second derivative that automatic differentiation gives is that of the piece at hand, so
the pieces of theta are recorded once, and theta + eps w is evaluated with the same ones.

Covered are the functions below and max pooling; `clamp`, `abs`, `maximum`, PReLU, adaptive max pooling and functions that are called
in place (`x.relu_()`) are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Piece = Callable[[Tensor], Tensor | float]
Break = Callable[[Tensor], Tensor]  # whether a unit is past a point where the piece changes
Pieces = tuple[tuple[Break, ...], tuple[Piece, ...]]


class Kinks:
    """Records the pieces of one evaluation and imposes them on later ones with the same sequence of calls."""

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []

    @property
    def num_bytes(self) -> int:
        """Memory of the record; 0 where the evaluation met no kink."""
        return sum(piece.nbytes for piece in self._pieces)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the pieces of what is evaluated inside, in place of earlier ones."""
        self._pieces = []
        with _Recorder(self._pieces):
            yield

    @contextmanager
    def imposed(self) -> Iterator[None]:
        """Evaluate what is inside with the recorded pieces, again from the first one after the last one."""
        with _Imposer(self._pieces) if self._pieces else nullcontext():
            yield


class _Recorder(TorchFunctionMode):
    def __init__(self, pieces: list[Tensor]) -> None:
        super().__init__()
        self._pieces = pieces

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _MAX_POOLS:
            output, indices = functional.max_pool2d_with_indices(*args, **kwargs)
            self._pieces.append(indices)
            return output
        if func in _ACTIVATIONS:
            breaks, _ = _ACTIVATIONS[func](*args[1:], **kwargs)
            x = args[0].detach()
            self._pieces.append(torch.stack([is_past(x) for is_past in breaks]).sum(0, dtype=torch.uint8))
        return func(*args, **kwargs)


class _Imposer(TorchFunctionMode):
    def __init__(self, pieces: list[Tensor]) -> None:
        super().__init__()
        self._pieces, self._position = pieces, 0

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _MAX_POOLS:
            indices = self._next()
            return args[0].flatten(2).gather(2, indices.flatten(2)).view(indices.shape)
        if func in _ACTIVATIONS:
            _, functions = _ACTIVATIONS[func](*args[1:], **kwargs)
            return _chosen(args[0], self._next(), functions)
        return func(*args, **kwargs)

    def _next(self) -> Tensor:
        piece = self._pieces[self._position % len(self._pieces)]
        self._position += 1
        return piece


def _chosen(x: Tensor, piece: Tensor, functions: Sequence[Piece]) -> Tensor:
    output: Tensor | float = functions[0](x)
    for number, function in enumerate(functions[1:], start=1):
        output = torch.where(piece == number, function(x), output)
    assert isinstance(output, Tensor)
    return output


# On a break itself a unit belongs to the piece whose derivative torch takes there: among the millions of units of a network one
# lies on it now and then, and a gradient that differs in it from the one of the forward sweep is divided by eps.
def _relu(*_: Any, **__: Any) -> Pieces:
    return (lambda x: x > 0.0,), (lambda x: 0.0, lambda x: x)


def _relu6(*_: Any, **__: Any) -> Pieces:
    return _hardtanh(0.0, 6.0)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, *_: Any, **__: Any) -> Pieces:
    return (lambda x: x > min_val, lambda x: x >= max_val), (lambda x: min_val, lambda x: x, lambda x: max_val)


def _leaky_relu(negative_slope: float = 0.01, *_: Any, **__: Any) -> Pieces:
    return (lambda x: x > 0.0,), (lambda x: negative_slope * x, lambda x: x)


def _hardsigmoid(*_: Any, **__: Any) -> Pieces:
    return (lambda x: x > -3.0, lambda x: x >= 3.0), (lambda x: 0.0, lambda x: x / 6 + 0.5, lambda x: 1.0)


def _hardswish(*_: Any, **__: Any) -> Pieces:
    return (lambda x: x > -3.0, lambda x: x >= 3.0), (lambda x: 0.0, lambda x: x * (x + 3) / 6, lambda x: x)


# Function -> (breaks, function of each piece), given the arguments that follow the tensor; `inplace` is among
# them by name or, under torch.compile, by position.
_ACTIVATIONS: dict[Any, Callable[..., Pieces]] = {
    functional.relu: _relu,
    torch.relu: _relu,
    torch.Tensor.relu: _relu,
    functional.relu6: _relu6,
    functional.hardtanh: _hardtanh,
    functional.leaky_relu: _leaky_relu,
    functional.hardsigmoid: _hardsigmoid,
    functional.hardswish: _hardswish,
}
_MAX_POOLS = (torch.max_pool2d, functional.max_pool2d)
