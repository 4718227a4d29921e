"""The outer optimiser of stage 2: synthetic tensors, their optimiser, the guard against non-finite values, checkpoints."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tasks.core.functional import GROUPS
from tasks.core.matching import Gradient
from tasks.core.matching_config import MatchingConfig, for_budget


class OuterState:
    """Images (M, C, H, W), texts (M, D) and log step sizes under optimisation.

    Args:
        config: options of the method.
        images, texts: where they start; copied.
        device: where they live.
    """

    def __init__(self, config: MatchingConfig, num_pairs: int, images: Tensor, texts: Tensor, *, device: torch.device) -> None:
        self._config, self.num_pairs = config, num_pairs
        self.batch_size = min(config.mini_batch_size, num_pairs)
        self.images, self.texts = images.clone().to(device), texts.clone().to(device)
        sizes = {"img": config.step_size_img, "txt": config.step_size_txt}
        self._logs = {group: torch.tensor(math.log(sizes[group]), device=device) for group in GROUPS}
        self._tensors = {"images": self.images, "texts": self.texts, **{f"log_{group}": value for group, value in self._logs.items()}}
        rates = {
            "images": for_budget(config.lr_img, num_pairs, "lr_img"),
            "texts": for_budget(config.lr_txt, num_pairs, "lr_txt"),
            "log_img": config.lr_step_size,
            "log_txt": config.lr_step_size,
        }
        groups = [{"params": [self._tensors[name]], "lr": rate} for name, rate in rates.items()]
        if config.optimiser == "adam":
            self._optimiser: torch.optim.Optimizer = torch.optim.Adam(groups, lr=1.0)
        else:
            self._optimiser = torch.optim.SGD(groups, lr=1.0, momentum=config.momentum)
        self.iteration, self.history, self._is_healed = 0, list[dict[str, float]](), False
        self._good: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def logs(self) -> dict[str, Tensor]:
        """Return log beta of each group."""
        return self._logs

    def step_sizes(self) -> dict[str, float]:
        """Return beta of each group."""
        return {group: float(value.exp()) for group, value in self._logs.items()}

    def update(self, found: Gradient, row: dict[str, float]) -> bool:
        """Take one outer step; return False after a roll-back instead.

        Raises:
            ValueError: loss, gradient or step size is not finite for the second time.
        """
        grads = {**found.inputs, **{f"log_{group}": value for group, value in found.log_step_sizes.items()}}
        is_finite = all(math.isfinite(value) for value in row.values()) and all(bool(g.isfinite().all()) for g in grads.values())
        if not is_finite:
            self._roll_back(row)
            return False
        self._good = self.dump()
        for name, tensor in self._tensors.items():
            tensor.grad = grads[name].to(tensor) if name in grads else None
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.history.append(row)
        self.iteration += 1
        return True

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return copies of all tensors and the JSON state."""
        tensors = {name: value.detach().clone() for name, value in self._tensors.items()}
        for name, tensor in self._tensors.items():
            for key, value in self._optimiser.state.get(tensor, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value.detach().clone()
        rates = [group["lr"] for group in self._optimiser.param_groups]
        return tensors, {"iteration": self.iteration, "history": list(self.history), "rates": rates, "is_healed": self._is_healed}

    def restore(self, stored: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        """Continue from what `dump` gave; None leaves the start as it is."""
        if stored is None:
            return
        tensors, state = stored
        for name, tensor in self._tensors.items():
            tensor.copy_(tensors[name])
            own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            # Adam counts its steps on the CPU, its moments live with the tensor.
            self._optimiser.state[tensor] = {k: v.clone() if k == "step" else v.to(tensor.device).clone() for k, v in own.items()}
        for group, rate in zip(self._optimiser.param_groups, state["rates"], strict=True):
            group["lr"] = rate
        self.iteration, self.history, self._is_healed = state["iteration"], list(state["history"]), state["is_healed"]

    def _roll_back(self, row: dict[str, float]) -> None:
        if self._is_healed or self._good is None:
            last = self.history[-1] if self.history else "none"
            raise ValueError(
                f"distillation left the finite numbers in iteration {self.iteration}: {row}; last finite values: {last}; "
                f"{'one roll-back with halved outer steps did not help' if self._is_healed else 'there is no state to go back to'}; "
                "lower lr_img, lr_txt or the step sizes in the method's options in params.yaml"
            )
        self.restore(self._good)
        self._is_healed = True
        for group in self._optimiser.param_groups:
            group["lr"] *= 0.5
