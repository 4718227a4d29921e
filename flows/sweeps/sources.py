"""Where the cells of a sweep come from: a list, or a search that asks for one after the other.

A search is Optuna's: TPE over the validation recall of ended cells. A cell whose first student has
less validation recall than the median of those before it is left there.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tasks.reporting.leaderboard import DONE, PRUNED
from tasks.settings.overrides import text_of
from tasks.settings.space import Axes, Cell, Range, Search, Settings

# Sections that experts are made of: a search over one shares none of them between all its cells
OF_EXPERTS = ("seed", "embed_captions", "model", "train_experts")


class Source(Protocol):
    """Cells of a sweep."""

    def first(self, number: int) -> list[Cell]:
        """Return the cells to begin with, where `number` workers wait."""

    def below(self, cell: Cell) -> float | None:
        """Return the validation recall of a first student below which a cell is left."""

    def after(self, cell: Cell, state: str, scores: Mapping[str, Any]) -> list[Cell]:
        """Hear how a cell ended, and return further ones."""


class Listed:
    """Cells that are known before."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)

    def first(self, number: int) -> list[Cell]:
        return self.cells

    def below(self, cell: Cell) -> float | None:
        return None

    def after(self, cell: Cell, state: str, scores: Mapping[str, Any]) -> list[Cell]:
        return []


class Searched:
    """Cells that Optuna asks for.

    Args:
        make: returns the cell of a setting.
        asked: {settings, below} of each cell of an earlier run, in order: these come first.
    """

    def __init__(
        self, search: Search, make: Callable[[Settings], Cell], asked: list[dict[str, Any]]
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search, self.make, self.asked = search, make, asked
        self.states = optuna.trial.TrialState
        # Cells of an earlier run draw nothing: with its seed, those draws would come once more
        seed = (search.seed * 1_000_003 + len(asked)) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar may change in a later version
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=search.num_startup, constant_liar=True
            )
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.axes = {name: _distribution(axis) for name, axis in search.over.items()}
        self.choices = _choices(search.over)
        for one in asked:
            self.study.enqueue_trial(one["values"])
        self.num_asked = 0
        self.trials: dict[str, tuple[Any, float | None]] = {}
        self.firsts: list[float] = []

    def first(self, number: int) -> list[Cell]:
        return [cell for _ in range(number) if (cell := self._ask())]

    def below(self, cell: Cell) -> float | None:
        return self.trials[cell.id][1]

    def after(self, cell: Cell, state: str, scores: Mapping[str, Any]) -> list[Cell]:
        trial, _ = self.trials[cell.id]
        if state in (DONE, PRUNED):
            first = scores["first_val"]
            self.firsts.append(first)
            trial.report(first, 0)
        if state == DONE:
            self.study.tell(trial, scores["val"])
        else:
            self.study.tell(trial, state=getattr(self.states, _told(state)))
        return self.first(1)

    def _ask(self) -> Cell | None:
        """Return the next cell; one that was asked for before is left to the first of them."""
        while self.num_asked < self.search.count:
            trial = self.study.ask(self.axes)
            self.num_asked += 1
            cell = self.make({name: self._value(name, trial.params[name]) for name in self.axes})
            if self.num_asked > len(self.asked):
                self.asked.append({"values": trial.params, "below": self._median()})
            if cell.id in self.trials:
                self.study.tell(trial, state=self.states.FAIL)
                continue
            self.trials[cell.id] = trial, self.asked[self.num_asked - 1]["below"]
            return cell
        return None

    def _median(self) -> float | None:
        is_early = len(self.firsts) < self.search.num_startup
        return None if is_early or not self.search.is_pruned else statistics.median(self.firsts)

    def _value(self, name: str, value: Any) -> Any:
        if name in self.choices:
            return self.choices[name][value]
        axis = self.search.over[name]
        return axis.rounded(value) if isinstance(axis, Range) else value


def shares_experts(axes: Axes) -> bool:
    """Whether all cells of a search build on the same experts."""
    return not any(name.partition(".")[0] in OF_EXPERTS for name in axes)


def _distribution(axis: list[Any] | Range) -> Any:
    from optuna import distributions

    if not isinstance(axis, Range):
        return distributions.CategoricalDistribution(list(map(text_of, axis)))
    if axis.is_whole:
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _choices(axes: Axes) -> dict[str, dict[str, Any]]:
    """Return what the text of each choice stands for: Optuna takes no lists."""
    return {
        name: {text_of(value): value for value in axis}
        for name, axis in axes.items()
        if not isinstance(axis, Range)
    }


def _told(state: str) -> str:
    return "PRUNED" if state == PRUNED else "FAIL"
