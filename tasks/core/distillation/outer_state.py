"""The outer optimiser of stage 2: the learnable tensors, their optimisers and averages, the guard
against non-finite values, and checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.core.distillation.matching_config import Kind, MatchingConfig, for_budget
from tasks.core.distillation.objective import Learnable
from tasks.core.hypergradient.trajectory import Gradient, Rows
from tasks.core.networks.functional import GROUPS

_GOOD, _AVERAGE = "good/", "average/"
_LOGS = tuple(f"log_{group}" for group in GROUPS)
# All others: "sim"
_KINDS: dict[str, Kind] = {"images": "img", "texts": "txt", **dict.fromkeys(_LOGS, "step_size")}


@dataclass(frozen=True)
class _Snapshot:
    """Copies of all tensors (with those of the optimiser, `<name>.<key>`, and averages,
    `average/<name>`) and the counters.
    """

    tensors: dict[str, Tensor]
    counters: dict[str, Any]


class OuterState:
    """Images (M, C, H, W), texts (M, D), further rows and log step sizes under optimisation.

    Args:
        config: options of the method.
        budget: pairs that the set is named for; chooses step sizes.
        images, texts: where they start; copied, images into the channels-last layout that
            convolutions take without a copy.
        further: further learnable tensors.
        device: where they live.
    """

    def __init__(
        self,
        config: MatchingConfig,
        budget: int,
        images: Tensor,
        texts: Tensor,
        further: dict[str, Learnable],
        *,
        device: torch.device,
    ) -> None:
        self._config, self.num_pairs = config, len(images)
        self.batch_size = min(
            int(for_budget(config.mini_batch_size, budget, "mini_batch_size")), self.num_pairs
        )
        starts = {
            "images": images,
            "texts": texts,
            **{name: value.start for name, value in further.items()},
        }
        logs = {
            f"log_{group}": math.log(size)
            for group, size in (("img", config.step_size_img), ("txt", config.step_size_txt))
        }
        layout = {4: torch.channels_last}
        self._tensors = {
            name: value.to(device).clone(
                memory_format=layout.get(value.ndim, torch.contiguous_format)
            )
            for name, value in starts.items()
        }
        self._tensors.update(
            {name: torch.tensor(value, device=device) for name, value in logs.items()}
        )
        self._average = (
            {name: value.clone() for name, value in self._tensors.items()}
            if config.ema_decay > 0.0
            else {}
        )
        self._rates = {
            "images": for_budget(config.lr_img, budget, "lr_img"),
            "texts": for_budget(config.lr_txt, budget, "lr_txt"),
            **{name: value.lr for name, value in further.items()},
            **dict.fromkeys(_LOGS, config.lr_step_size),
        }
        self._optimisers = {
            name: _optimiser(config, name, tensor) for name, tensor in self._tensors.items()
        }
        self.iteration, self.num_updates, self.history, self._is_healed = (
            0,
            0,
            list[dict[str, float]](),
            False,
        )
        self._good: _Snapshot | None = None

    def rows(self) -> Rows:
        """Return what has a row per pair as it is now, detached: images, texts, further tensors."""
        return {name: value.detach() for name, value in self._tensors.items() if name not in _LOGS}

    def logs(self) -> dict[str, Tensor]:
        """Return log beta of each group."""
        return {group: self._tensors[f"log_{group}"] for group in GROUPS}

    def step_sizes(self) -> dict[str, float]:
        """Return beta of each group as it is now."""
        return {group: float(value.exp()) for group, value in self.logs().items()}

    def result(self) -> tuple[Rows, dict[str, float]]:
        """Return rows, on the CPU, and beta of the set to be stored: the last ones, or with
        `ema_decay` their averages.
        """
        stored = {**self._tensors, **self._average}
        rows = {
            name: value.detach().cpu().contiguous()
            for name, value in stored.items()
            if name not in _LOGS
        }
        return rows, {group: float(stored[f"log_{group}"].exp()) for group in GROUPS}

    def update(self, found: Gradient, row: dict[str, float]) -> bool:
        """Take one outer step and write its history row; return False after a roll-back instead.

        What the step leads to is checked as well, so that neither a checkpoint nor the stored set
        ever holds it.

        Raises:
            ValueError: loss, gradient, a tensor or a step size leaves the finite numbers (step
                sizes: the positive ones) for the second time.
        """
        grads = {
            **found.inputs,
            **{f"log_{group}": value for group, value in found.log_step_sizes.items()},
        }
        faulty = [name for name, value in row.items() if not math.isfinite(value)] or _outside(
            grads, ()
        )
        if faulty:
            self._roll_back(
                row,
                "not finite: "
                f"{', '.join(f'gradient of {name}' if name in grads else name for name in faulty)}",
            )
            return False
        limit = self._config.skip_above
        if limit is not None:
            row = {
                **row,
                "num_skipped": float(self.iteration - self.num_updates + (row["loss"] > limit)),
            }
        if limit is None or row["loss"] <= limit:
            self._step(grads)
            averages = {f"average of {name}": value for name, value in self._average.items()}
            faulty = _outside(
                {**self._tensors, **averages}, (*_LOGS, *(f"average of {name}" for name in _LOGS))
            )
            if faulty:
                self._roll_back(
                    row, f"after its step, not finite, or a step size of 0: {', '.join(faulty)}"
                )
                return False
        self.history.append(row)
        self.iteration += 1
        return True

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors and the JSON state of a checkpoint, with what a roll-back would go
        back to.
        """
        now = self._snapshot()
        tensors, state = now.tensors, {**now.counters, "history": list(self.history), "good": None}
        if self._good is not None:
            tensors = {
                **tensors,
                **{_GOOD + name: value for name, value in self._good.tensors.items()},
            }
            state["good"] = self._good.counters
        return tensors, state

    def restore(self, stored: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        """Continue from what `dump` gave; None leaves the start as it is."""
        if stored is None:
            return
        tensors, state = stored
        self.history = list(state["history"])
        self._return_to(
            _Snapshot(
                {name: value for name, value in tensors.items() if not name.startswith(_GOOD)},
                state,
            )
        )
        if state["good"] is not None:
            good = {
                name.removeprefix(_GOOD): value
                for name, value in tensors.items()
                if name.startswith(_GOOD)
            }
            self._good = _Snapshot(good, state["good"])

    def _step(self, grads: Rows) -> None:
        self._good = self._snapshot()
        for name, tensor in self._tensors.items():
            tensor.grad = _like(tensor, grads[name]) if name in grads else None
        for name, optimiser in self._optimisers.items():
            optimiser.param_groups[0]["lr"] = self._rates[name] * self._config.outer_decay(
                self.iteration
            )
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.num_updates += 1
        # Weights decay^age / sum of them, as in Adam: the start, which was never an outcome, has
        # none.
        decay = self._config.ema_decay
        for name, average in self._average.items():
            average.lerp_(self._tensors[name], (1.0 - decay) / (1.0 - decay**self.num_updates))

    def _snapshot(self) -> _Snapshot:
        tensors = {name: value.detach().clone() for name, value in self._tensors.items()}
        tensors.update({_AVERAGE + name: value.clone() for name, value in self._average.items()})
        for name, tensor in self._tensors.items():
            for key, value in self._optimisers[name].state.get(tensor, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value.detach().clone()
        counters = {
            "iteration": self.iteration,
            "num_updates": self.num_updates,
            "rates": dict(self._rates),
            "is_healed": self._is_healed,
        }
        return _Snapshot(tensors, counters)

    def _return_to(self, stored: _Snapshot) -> None:
        for name, tensor in self._tensors.items():
            tensor.copy_(stored.tensors[name])
            own = {
                key.removeprefix(f"{name}."): value
                for key, value in stored.tensors.items()
                if key.startswith(f"{name}.")
            }
            # Adam counts its steps on the CPU, its moments live with the tensor and are laid out
            # like it.
            self._optimisers[name].state[tensor] = {
                k: v.clone() if k == "step" else _like(tensor, v).clone() for k, v in own.items()
            }
        for name, average in self._average.items():
            average.copy_(stored.tensors[_AVERAGE + name])
        self._rates = dict(stored.counters["rates"])
        self.iteration, self.num_updates = (
            stored.counters["iteration"],
            stored.counters["num_updates"],
        )
        self._is_healed = stored.counters["is_healed"]
        del self.history[self.iteration :]  # one row an iteration

    def _roll_back(self, row: dict[str, float], faulty: str) -> None:
        if self._is_healed or self._good is None:
            last = self.history[-1] if self.history else "none"
            tried = "there is no state to go back to"
            if self._is_healed:
                tried = "one roll-back with halved outer steps did not help"
            raise ValueError(
                f"distillation left the finite numbers in iteration {self.iteration}: {row}; "
                f"{faulty}; last finite values: {last}; {tried}; "
                "lower lr_img, lr_txt, lr_step_size or the step sizes in the method's options in "
                "params.yaml"
            )
        self._return_to(self._good)
        self._is_healed = True
        self._rates = {name: 0.5 * rate for name, rate in self._rates.items()}


def _optimiser(config: MatchingConfig, name: str, tensor: Tensor) -> torch.optim.Optimizer:
    kind = config.optimiser_of(_KINDS.get(name, "sim"))
    return (
        torch.optim.Adam([tensor], lr=1.0)
        if kind == "adam"
        else torch.optim.SGD([tensor], lr=1.0, momentum=config.momentum)
    )


def _outside(tensors: Rows, logs: tuple[str, ...]) -> list[str]:
    """Return the names of tensors that are not finite, of `logs` also those whose exponential is
    not, or is 0; one wait for the device.
    """
    tests = [
        (value.exp().log() if name in logs else value).isfinite().all()
        for name, value in tensors.items()
    ]
    return [
        name
        for name, is_inside in zip(tensors, torch.stack(tests).tolist(), strict=True)
        if not is_inside
    ]


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the device, dtype and memory layout of `tensor`, itself where it has
    them.
    """
    value = value.to(tensor)
    return value if value.stride() == tensor.stride() else torch.empty_like(tensor).copy_(value)
