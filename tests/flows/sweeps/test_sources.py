"""A search asks for cells by Optuna, leaves poor ones, and goes on where it was."""

from __future__ import annotations

import pytest

from flows.sweeps.sources import Searched, shares_experts
from tasks.reporting.leaderboard import DONE, FAILED, PRUNED
from tasks.settings.space import Cell, Search

LR = "distill.matching.lr_img"
OVER = {
    LR: {"low": 0.001, "high": 1.0, "log": True},
    "distill.matching.optimise": ["both", "image"],
}


def cell_of(settings):
    return Cell("a", settings, settings)


def recall(cell):
    """Highest where the step size is 0.1, and both modalities move."""
    return (
        50
        - 10 * abs(cell.settings[LR] - 0.1)
        - 5 * (cell.settings["distill.matching.optimise"] != "both")
    )


def searched(count, asked=None, **how):
    search = Search.model_validate({"count": count, "over": OVER, **how})
    return Searched(search, cell_of, [] if asked is None else asked)


def run(source, workers=2, stop=10_000):
    """Run a search; returns the cells in the order in which they were asked for."""
    waiting, ended = source.first(workers), []
    while waiting and len(ended) < stop:
        cell = waiting.pop(0)
        value = recall(cell)
        floor = source.below(cell)
        state = PRUNED if floor is not None and value < floor else DONE
        ended.append((cell, state))
        waiting += source.after(cell, state, {"first_val": value, "val": value})
    return ended


def test_a_search_asks_for_as_many_cells_as_it_was_told_and_finds_good_ones():
    ended = run(searched(40))
    assert len(ended) == 40 and len({cell.id for cell, _ in ended}) == 40
    early, late = ended[:10], ended[-10:]
    assert sum(map(recall, (cell for cell, _ in late))) > sum(
        map(recall, (cell for cell, _ in early))
    )


def test_a_cell_below_the_median_of_first_students_is_left():
    states = [state for _, state in run(searched(30, num_startup=5))]
    assert set(states[:5]) == {DONE} and PRUNED in states[5:]
    assert {state for _, state in run(searched(30, is_pruned=False))} == {DONE}


@pytest.mark.parametrize("stop", [3, 9, 16])
def test_a_search_that_was_killed_goes_on_with_the_cells_that_it_asked_for(stop):
    asked: list[dict[str, object]] = []
    run(searched(20, asked), stop=stop)
    kept = [dict(one) for one in asked]
    again = run(searched(20, asked))
    assert len(again) == 20 and asked[: len(kept)] == kept
    values = [float(f"{one['values'][LR]:.6g}") for one in kept]
    assert [cell.settings[LR] for cell, _ in again[: len(values)]] == values


def test_choices_that_run_out_are_asked_for_once():
    search = Search.model_validate({"count": 12, "over": {"seed": [1, 2]}})
    ended = run_of(Searched(search, cell_of, []))
    assert sorted(cell.settings["seed"] for cell in ended) == [1, 2]


def run_of(source):
    waiting, ended = source.first(1), []
    while waiting:
        ended.append(waiting.pop(0))
        waiting += source.after(ended[-1], FAILED, {})
    return ended


def test_only_a_search_over_distillation_and_evaluation_shares_its_experts():
    assert shares_experts({LR: [0.1], "evaluate.small.num_epochs": [3], "methods": ["lors"]})
    assert not shares_experts({"train_experts.lr_img": [0.1]}) and not shares_experts({"seed": [1]})
