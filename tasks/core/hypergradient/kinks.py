"""Holds piecewise activations in their piece, so that finite differences of a gradient are right
for ReLU networks too.

The gradient of a network with ReLUs jumps wherever a unit crosses its kink. A step of eps crosses a
number of kinks that is proportional to eps, and each jump is divided by eps. The difference then
measures jumps instead of curvature. Automatic differentiation knows no jumps: it differentiates the
piece that a unit is in. To do the same, the pieces at theta are recorded once, and theta + eps w is
evaluated with them.

`pieces.py` lists the functions that are covered. Not covered are `maximum`, `max` along a
dimension, shrinkage, selu, and max pooling in one or three dimensions. `engine_probe.py` notices
where one of these makes differences wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        self._position = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of the record; 0 where the evaluation met no function with a kink."""
        return sum(piece.nbytes for piece in self._pieces)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the pieces of what is evaluated inside, in place of earlier ones."""
        self._pieces = []
        with _Mode(self._record):
            yield

    @contextmanager
    def imposed(self) -> Iterator[None]:
        """Evaluate what is inside with the recorded pieces, in the order of the record. After the
        last piece the record begins again.
        """
        self._position = 0
        with _Mode(self._impose) if self._pieces else nullcontext():
            yield

    def _record(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if func in POOLS:
            # The index of each maximum is the piece of a pooling window
            output, indices = POOLS[func](*args, **kwargs)
            self._pieces.append(indices)
            return output
        # Values alone decide the pieces, so a detached tensor is enough and records no graph
        if func in LARGEST:
            self._pieces.append(where_largest(args[0].detach(), *args[1:], **kwargs))
        pieces = _pieces_of(func, args, kwargs)
        if pieces is not None:
            self._pieces.append(piece_numbers(args[0].detach(), pieces[0]))
        return func(*args, **kwargs)

    def _impose(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if func in POOLS:
            indices = self._next()
            # The recorded places, whether they still hold the maxima or not
            return args[0].flatten(-2).gather(-1, indices.flatten(-2)).view(indices.shape)
        if func in LARGEST:
            return mean_of(args[0], self._next(), *args[1:], **kwargs)
        pieces = _pieces_of(func, args, kwargs)
        if pieces is None:
            return func(*args, **kwargs)
        output = in_pieces(args[0], self._next(), pieces[1])
        return args[0].copy_(output) if func in IN_PLACE else output

    def _next(self) -> Tensor:
        # The record may hold one pass over the micro-batches and then the head, as `trace` runs
        # them. A gradient then passes over the micro-batches once more, from the first piece on.
        piece = self._pieces[self._position % len(self._pieces)]
        self._position += 1
        return piece


class _Mode(TorchFunctionMode):
    """Hands every call of a function of torch to `evaluate`.

    It sees functional calls too, which hooks on modules would miss.
    """

    def __init__(self, evaluate: Callable[..., Any]) -> None:
        super().__init__()
        self._evaluate = evaluate

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._evaluate(func, *_tensor_first(args, kwargs or {}))


def _tensor_first(
    args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    # Torch calls its first argument `input`, and a network may pass it by that name
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
    # Networks also clamp indices and single numbers, which are no layers with units
    is_layer = args[0].is_floating_point() and args[0].ndim > 0
    return kind(*args[1:], **kwargs) if is_layer else None
