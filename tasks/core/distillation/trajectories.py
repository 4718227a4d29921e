"""Draws where students start, and gives the trajectories that they follow: those of experts as they
are stored, or straight ones (METHOD 4).

`displacements.py` has the mathematics, `segments.py` makes goals of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.displacements import (
    displacements,
    on_straight_line,
    shares_of_way,
    start_ranges,
)
from tasks.core.distillation.matching_config import MatchingConfig
from tasks.core.networks.functional import GROUPS, FlatModel, Theta

Epochs = dict[str, float]  # of each group


class Trajectories:
    """The trajectories of all experts; remembers how far each of them moves.

    Args:
        flat: knows the layers.
        buffer: the stored ones.
        config: how they are followed.
    """

    def __init__(self, flat: FlatModel, buffer: Buffer, config: MatchingConfig) -> None:
        self._flat, self._buffer, self._config = flat, buffer, config
        self._lengths: dict[int, dict[str, Tensor]] = {}

    def draw_start(self, iteration: int, draw: torch.Generator) -> tuple[int, Epochs]:
        """Return a random expert, and the epoch at which each group of the student starts."""
        expert = int(torch.randint(self._buffer.num_experts, (1,), generator=draw))
        last = self._config.last_start(iteration)
        if self._config.starts == "joint":
            epoch = self._draw_epoch(last, draw)
            return expert, dict.fromkeys(GROUPS, epoch)
        ranges = start_ranges(self._lengths_of(expert))
        epochs = {}
        for group in GROUPS:
            epochs[group] = self._draw_epoch(min(last, ranges[group]), draw)
        return expert, epochs

    def at(self, iteration: int, expert: int, epochs: Epochs) -> Theta:
        """Return the parameters of an expert, each group at its epoch; do not modify them in
        place.

        Raises:
            ValueError: the expert was not trained that far.
        """
        if self._config.convex_epochs is not None:
            return self._on_line(iteration, expert, epochs, self._config.convex_epochs)
        img, txt = (int(epochs[group]) for group in GROUPS)
        theta = self._buffer.snapshot(expert, img)
        if img == txt:
            return theta
        return {"img": theta["img"], "txt": self._buffer.snapshot(expert, txt)["txt"]}

    def _on_line(self, iteration: int, expert: int, epochs: Epochs, last_end: int) -> Theta:
        last = self._config.last_start(iteration)
        end = last_end - (self._config.max_start_epoch - 1 - math.ceil(last))
        lengths = self._lengths_of(expert)
        thetas = self._buffer.snapshot(expert, 0), self._buffer.snapshot(expert, end)
        found = {}
        for group in GROUPS:
            shares = shares_of_way(lengths[group], epochs[group], end)
            first, last_theta = (theta[group] for theta in thetas)
            found[group] = on_straight_line(first, last_theta, shares, self._flat.layers(group))
        return found

    def _lengths_of(self, expert: int) -> dict[str, Tensor]:
        if expert not in self._lengths:
            num_epochs = self._config.last_epoch
            self._lengths[expert] = displacements(self._flat, self._buffer, expert, num_epochs)
        return self._lengths[expert]

    def _draw_epoch(self, last: float, draw: torch.Generator) -> float:
        if self._config.convex_epochs is not None:
            return last * float(torch.rand(1, generator=draw))
        return int(torch.randint(int(last) + 1, (1,), generator=draw))
