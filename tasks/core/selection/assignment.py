"""Solves the linear assignment problem (Kuhn, 1955; in the form of shortest augmenting paths,
Jonker and Volgenant, 1987).
"""

from __future__ import annotations

import torch
from torch import Tensor


def assign(costs: Tensor) -> Tensor:
    """Return (K,) int64: the column of each row, no column twice, with the least sum of costs.

    Args:
        costs: (K, K) float64, finite. The time grows with K ** 3.
    """
    size = len(costs)
    # Duals of rows and columns; column `size` is where a path begins
    of_row, of_column = costs.new_zeros(size), costs.new_zeros(size + 1)
    row_of = torch.full((size + 1,), -1)
    for first in range(size):
        row_of[size] = first
        _augment(costs, row_of, of_row, of_column)
    columns = torch.empty(size, dtype=torch.long)
    columns[row_of[:size]] = torch.arange(size)
    return columns


def _augment(costs: Tensor, row_of: Tensor, of_row: Tensor, of_column: Tensor) -> None:
    """Give the row at column `size` a column, along the cheapest path; all in place."""
    size = len(costs)
    slack = costs.new_full((size,), torch.inf)
    came_from = torch.full((size,), size)
    is_seen = torch.zeros(size + 1, dtype=torch.bool)
    column = size
    while True:
        is_seen[column] = True
        row = int(row_of[column])
        if row < 0:
            break
        reduced = costs[row] - of_row[row] - of_column[:size]
        is_nearer = (reduced < slack) & ~is_seen[:size]
        slack[is_nearer] = reduced[is_nearer]
        came_from[is_nearer] = column
        open_slack = slack.masked_fill(is_seen[:size], torch.inf)
        following = int(open_slack.argmin())
        step = open_slack[following]
        of_row[row_of[is_seen]] += step
        of_column[is_seen] -= step
        slack[~is_seen[:size]] -= step
        column = following
    while column != size:
        before = int(came_from[column])
        row_of[column] = row_of[before]
        column = before
