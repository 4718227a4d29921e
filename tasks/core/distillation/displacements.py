"""Measures how far each layer of an expert moves in an epoch, and what two papers make of it.

D_t is the displacement of epoch t, theta*_t - theta*_{t-1}.

* AMD (Asynchronous Matching with Dynamic Sampling, ICLR 2026) draws the start epochs of both groups
  for themselves, from 0 .. R_img and from 0 .. R_txt. With r_t = |D_t,img| / |D_t,txt| and the
  median m of all r_t, R_img is the first epoch where r_t > m. R_txt is the last one where r_t <= m.
  So texts, which settle first, are not followed where they stand still.
* PTM-ST (Phased Teacher Models with Shortcut Trajectory, ICLR 2026, arXiv 2603.25388) follows a
  straight trajectory from epoch 0 to K. For each layer it is theta_t = (1 - b_t) theta*_0 + b_t
  theta*_K. b_t is the share of its way up to t, sum_{e <= t} |D_e| / sum_{e <= K} |D_e|.

We differ from AMD: its displacements are those of the mean of all experts. Here each expert has its
own ranges, for projections of experts start from different weights. A range ends at the latest
start epoch in any case. We differ from PTM-ST: start epochs are real numbers, and b_t is linear in
between. Its phases distil one block of pairs each and leave early starts behind. Here one set is
distilled in all phases, and the starts of the first phase stay. The average over iterations of the
pairs (decay 0.99) is left out.

Cost: an expert is read once from epoch 0 to the last one; a straight trajectory then takes two
snapshots of it.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from tasks.core.distillation.buffer import Buffer
from tasks.core.networks.functional import GROUPS, FlatModel

_LEAST = 1e-12  # for a text group that stands still


def displacements(
    flat: FlatModel, buffer: Buffer, expert: int, num_epochs: int
) -> dict[str, Tensor]:
    """Return |D_t| of each layer, {"img": (E, L_img), "txt": (E, L_txt)}, float64 on the CPU.

    Args:
        flat: knows the layers.
        num_epochs: E, how many epochs from epoch 0 on.

    Raises:
        ValueError: the expert was not trained that far.
    """
    rows: dict[str, list[Tensor]] = {group: [] for group in GROUPS}
    before = buffer.snapshot(expert, 0)
    for epoch in range(1, num_epochs + 1):
        now = buffer.snapshot(expert, epoch)
        for group in GROUPS:
            moved = (now[group] - before[group]).split(flat.layers(group))
            # A group may be empty, and `stack` needs one part at least
            lengths = [now[group].new_zeros(())]
            lengths += [part.norm() for part in moved]
            rows[group].append(torch.stack(lengths)[1:])
        before = now
    return {group: torch.stack(found).double().cpu() for group, found in rows.items()}


def start_ranges(lengths: dict[str, Tensor]) -> dict[str, int]:
    """Return the latest start epochs R_img and R_txt of AMD, each of 1 .. E.

    Where no ratio exceeds the median, all are equal, and images have no bound but E.

    Args:
        lengths: of `displacements`, with both groups.
    """
    img, txt = (lengths[group].square().sum(dim=1).sqrt() for group in GROUPS)
    ratios = (img / (txt + _LEAST)).tolist()
    median = statistics.median(ratios)
    above: list[int] = []
    below: list[int] = []
    for epoch, ratio in enumerate(ratios, start=1):
        side = above if ratio > median else below
        side.append(epoch)
    return {"img": min(above, default=len(ratios)), "txt": max(below)}


def shares_of_way(lengths: Tensor, epoch: float, end: int) -> Tensor:
    """Return b_t of each layer (L,), 0..1; 0 for a layer that does not move.

    Args:
        lengths: |D_t| of a group, (E, L).
        epoch: t, any real number of 0 .. end.
        end: K, at most E.
    """
    whole = int(epoch)
    walked = lengths[:whole].sum(dim=0)
    if whole < end:
        walked += (epoch - whole) * lengths[whole]
    total = lengths[:end].sum(dim=0)
    return torch.where(total > 0.0, walked / total.clamp(min=_LEAST), 0.0)


def on_straight_line(first: Tensor, last: Tensor, shares: Tensor, layers: list[int]) -> Tensor:
    """Return theta_t of a group, (P,).

    Args:
        first, last: theta*_0 and theta*_K, (P,).
        shares: b_t of its layers, (L,).
        layers: numbers of each layer.
    """
    parts = [first[:0]]
    for start, end, share in zip(
        first.split(layers), last.split(layers), shares.tolist(), strict=True
    ):
        parts.append(torch.lerp(start, end, share))
    return torch.cat(parts)
