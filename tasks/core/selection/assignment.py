"""Solves the linear assignment problem (Kuhn, 1955; in the form of shortest augmenting paths,
Jonker and Volgenant, 1987).

The dual problem has a number u_i for each row and v_j for each column, with u_i + v_j <= cost_ij.
The reduced cost cost_ij - u_i - v_j is at least 0, and it is 0 wherever row i has column j. Rows
enter one by one. Each one takes the path of least reduced cost to a free column, and rows along the
path change to other columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def assign(costs: Tensor) -> Tensor:
    """Return (K,) int64, the column of each row: each column once, with the least sum of costs.

    Args:
        costs: (K, K) float64, finite. The time grows with K ** 3.
    """
    size = len(costs)
    # u and v of the duals. The extra column `size` is where the path of each new row begins.
    of_row, of_column = costs.new_zeros(size), costs.new_zeros(size + 1)
    # The row of each column, -1 for a free column
    row_of = torch.full((size + 1,), -1)
    for first in range(size):
        row_of[size] = first
        _augment(costs, row_of, of_row, of_column)
    columns = torch.empty(size, dtype=torch.long)
    columns[row_of[:size]] = torch.arange(size)
    return columns


def _augment(costs: Tensor, row_of: Tensor, of_row: Tensor, of_column: Tensor) -> None:
    """Give the row at column `size` a column, along the cheapest path to a free one. Changes
    `row_of` and the duals, in place.
    """
    size = len(costs)
    # `slack` is the least reduced cost of each column under the rows of seen columns
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
        # Move the duals by the least slack: the next column gets reduced cost 0, and rows with a
        # column keep theirs at 0
        step = open_slack[following]
        of_row[row_of[is_seen]] += step
        of_column[is_seen] -= step
        slack[~is_seen[:size]] -= step
        column = following
    # Back along the path: each column takes the row of the column before it
    while column != size:
        before = int(came_from[column])
        row_of[column] = row_of[before]
        column = before
