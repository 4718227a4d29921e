"""What a leaderboard says of several sets of one kind: spread, and loss against recall."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from tasks.core.evaluation import metrics
from tasks.reporting import leaderboard
from tasks.reporting.cell_scores import final_loss
from tasks.reporting.leaderboard import DONE, FAILED, Leaderboard, Row


def row(recall, deviation, loss, **swept):
    scores = dict.fromkeys((*metrics.NAMES, "val", "seconds"), recall)
    scores |= {"mean_recall_std": deviation, "n": 3, "loss": loss, "recovery": None}
    scores |= {"over_random": None, "over_equal_bytes": None, "val_std": deviation}
    return Row(str(swept), str(swept), swept, DONE, scores)


def board(*rows):
    return Leaderboard("name", "toy", list(rows), None, {})


def test_cells_that_differ_in_their_seed_alone_are_sets_of_one_kind():
    found = board(
        *(row(10.0 + seed, 0.3, 1.0, seed=seed, methods="lors") for seed in range(3)),
        row(20.0, 0.5, 1.0, seed=0, methods="mdm"),
        Row("failed", "failed", {"seed": 3, "methods": "lors"}, FAILED),
    )
    (one,) = leaderboard.over_sets(found)
    assert one.name == "methods=lors" and one.spread.sets.n == 3
    assert one.spread.sets.deviation == pytest.approx(1.0)
    assert one.spread.over_students == pytest.approx(0.3)
    half = 4.302653 / math.sqrt(3)
    text = f"| methods=lors | 3 | 11.00 +- 1.00 | 0.30 | {11 - half:.1f} to {11 + half:.1f} |"
    assert text in leaderboard.markdown(found)


def test_loss_is_compared_with_recall_over_sets_of_one_method_and_size():
    losses = np.random.default_rng(1).permutation(9)
    cells = [row(30.0 - loss, 0.1, float(loss), seed=seed) for seed, loss in enumerate(losses)]
    assert leaderboard.correlations(board(*cells)) == {"all cells": pytest.approx(-1.0)}
    assert leaderboard.correlations(board(*cells[:7])) == {}
    text = leaderboard.markdown(board(*cells))
    assert "| all cells | -1.00 |" in text and "DCS" not in leaderboard.markdown(board(*cells[:7]))


def test_a_sweep_without_seeds_has_neither_table(tmp_path):
    found = board(row(10.0, 0.3, 1.0, lr=0.1), row(11.0, 0.3, 0.9, lr=0.2))
    html = leaderboard.write(found, tmp_path)[2].read_text()
    assert "further-1" not in html and leaderboard.over_sets(found) == []


def test_the_final_loss_is_that_of_the_last_iterations_after_a_warm_start(tmp_path):
    losses = [9.0] * 30 + [5.0] * 18 + [1.0, 3.0]
    rows = {"iteration": range(50), "loss": losses, "is_warm_start": [1.0] * 30 + [0.0] * 20}
    pd.DataFrame(rows).to_parquet(tmp_path / "history.parquet", index=False)
    assert final_loss(tmp_path) == pytest.approx(2.0)
