"""Guards the outer loop against values that are not finite (METHOD 4): one roll-back with halved
outer steps, then a stop.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from tasks.core.distillation.outer_state import LOGS, OuterState, Snapshot
from tasks.core.hypergradient.trajectory import Gradient, Rows


class Guard:
    """Takes the outer steps of a state, and takes back those that leave the finite numbers.

    Attributes:
        state: changed in place.
        good: what a roll-back returns to, None before the first step.
        is_healed: whether there was a roll-back; there is one at most.
    """

    def __init__(self, state: OuterState) -> None:
        self.state, self.is_healed = state, False
        self.good: Snapshot | None = None

    def update(self, found: Gradient, row: dict[str, float]) -> bool:
        """Take one outer step and write its history row; return False after a roll-back instead.

        The result of the step is checked too, so that no checkpoint and no stored set ever holds
        numbers that are not finite.

        Raises:
            ValueError: loss, gradient, a tensor or a step size leaves the finite numbers (step
                sizes: the positive ones) for the second time.
        """
        grads = dict(found.inputs)
        for group, value in found.log_step_sizes.items():
            grads[f"log_{group}"] = value
        faulty = [name for name, value in row.items() if not math.isfinite(value)]
        if not faulty:
            faulty = [f"gradient of {name}" for name in _outside(grads)]
        if faulty:
            self._roll_back(row, f"not finite: {', '.join(faulty)}")
            return False
        # The state before the step is good: its loss and its gradient have just been finite
        self.good = self.state.snapshot()
        self.state.step(grads)
        faulty = _outside(self.state.tensors, LOGS)
        if faulty:
            names = ", ".join(faulty)
            self._roll_back(row, f"after its step, not finite, or a step size of 0: {names}")
            return False
        self.state.history.append(row)
        return True

    def _roll_back(self, row: dict[str, float], faulty: str) -> None:
        state = self.state
        if self.is_healed or self.good is None:
            last = state.history[-1] if state.history else "none"
            tried = "there is no state to go back to"
            if self.is_healed:
                tried = "one roll-back with halved outer steps did not help"
            raise ValueError(
                f"distillation left the finite numbers in iteration {state.iteration}: {row}; "
                f"{faulty}; last finite values: {last}; {tried}; "
                "lower lr_img, lr_txt, lr_step_size or the step sizes in the method's options in "
                "params.yaml"
            )
        state.return_to(self.good)
        state.halve_rates()
        self.is_healed = True


def _outside(tensors: Rows, logs: Collection[str] = ()) -> list[str]:
    """Return the names of tensors that are not finite. A tensor in `logs` has to have a finite
    exponential above 0, too.
    """
    tests = []
    for name, value in tensors.items():
        # The logarithm of the exponential is not finite where that is 0 or infinite
        tested = value.exp().log() if name in logs else value
        tests.append(tested.isfinite().all())
    are_inside = torch.stack(tests).tolist()  # one wait for the device, not one a tensor
    return [name for name, is_inside in zip(tensors, are_inside, strict=True) if not is_inside]
