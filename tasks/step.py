"""A step makes one artifact. It is a plain function, which `flows/runner.py` may run as a task of
Prefect; nothing here or below imports Prefect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Step(Generic[P, R]):
    """A function of ours that flows run.

    Attributes:
        fn: the function itself.
        run_name: what Prefect calls a run, with parameters in braces; None takes the function's.
    """

    fn: Callable[P, R]
    run_name: str | None = None

    def __call__(self, *args: P.args, **how: P.kwargs) -> R:
        return self.fn(*args, **how)


def step(run_name: str | None = None) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a function a step."""
    return lambda fn: Step(fn, run_name)
