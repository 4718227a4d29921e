"""Piecewise activations held in their piece, so that finite differences of a gradient are right for
ReLU networks too.

The gradient of a network with ReLUs jumps wherever a unit crosses its kink. A step of eps crosses
about eps * units of them, and each jump is divided by eps. The difference then measures jumps
instead of curvature. Automatic differentiation gives the second derivative of the piece at hand. So
the pieces of theta are recorded once, and theta + eps w is evaluated with the same ones.

Covered are the functions of `pieces.py`; `maximum`, `max` along a dimension, shrinkage, selu and
max pooling in one or three dimensions are not. `engine_probe.py` notices where one of these makes
differences wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from tasks.core.hypergradient.pieces import (
    ACTIVATIONS,
    IN_PLACE,
    LARGEST,
    POOLS,
    Pieces,
    in_pieces,
    mean_of,
    piece_numbers,
    where_largest,
)


class Kinks:
    """Records the pieces of one evaluation and imposes them on later ones with the same sequence of
    calls.
    """

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
        """Evaluate what is inside with the recorded pieces, again from the first one after the last
        one.
        """
        with _Imposer(self._pieces) if self._pieces else nullcontext():
            yield


class _Recorder(TorchFunctionMode):
    def __init__(self, pieces: list[Tensor]) -> None:
        super().__init__()
        self._pieces = pieces

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = _tensor_first(args, kwargs or {})
        if func in POOLS:
            output, indices = POOLS[func](*args, **kwargs)
            self._pieces.append(indices)
            return output
        if func in LARGEST:
            self._pieces.append(where_largest(args[0].detach(), *args[1:], **kwargs))
        pieces = _pieces_of(func, args, kwargs)
        if pieces is not None:
            self._pieces.append(piece_numbers(args[0].detach(), pieces[0]))
        return func(*args, **kwargs)


class _Imposer(TorchFunctionMode):
    def __init__(self, pieces: list[Tensor]) -> None:
        super().__init__()
        self._pieces, self._position = pieces, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = _tensor_first(args, kwargs or {})
        if func in POOLS:
            indices = self._next()
            return args[0].flatten(-2).gather(-1, indices.flatten(-2)).view(indices.shape)
        if func in LARGEST:
            return mean_of(args[0], self._next(), *args[1:], **kwargs)
        pieces = _pieces_of(func, args, kwargs)
        if pieces is None:
            return func(*args, **kwargs)
        output = in_pieces(args[0], self._next(), pieces[1])
        return args[0].copy_(output) if func in IN_PLACE else output

    def _next(self) -> Tensor:
        piece = self._pieces[self._position % len(self._pieces)]
        self._position += 1
        return piece


def _tensor_first(
    args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    if args or "input" not in kwargs:
        return args, kwargs
    return (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}


def _pieces_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Pieces | None:
    if func in ACTIVATIONS:
        kind = ACTIVATIONS[func]
    elif func in IN_PLACE:
        kind = IN_PLACE[func]
    else:
        return None
    # Clamp and abs are for indices and single numbers too
    is_layer = args[0].is_floating_point() and args[0].ndim > 0
    return kind(*args[1:], **kwargs) if is_layer else None
