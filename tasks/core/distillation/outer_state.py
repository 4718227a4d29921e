"""Holds what stage 2 optimises: the learnable tensors, their optimisers and their outer step sizes.

`outer_guard.py` takes its steps and takes back those that leave the finite numbers.
`outer_checkpoint.py` stores both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.distillation.matching_config import (
    Kind,
    MatchingConfig,
    OuterConfig,
    for_budget,
)
from tasks.core.distillation.objective import Learnable
from tasks.core.hypergradient.trajectory import Rows
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.functional import GROUPS
from tasks.core.training.eight_bits import keep_in_range, round_images, round_texts

LOGS = tuple(f"log_{group}" for group in GROUPS)  # names of the log step sizes
# All others: "sim"
_KINDS: dict[str, Kind] = {
    "images": "img",
    "text_embeds": "txt",
    **dict.fromkeys(LOGS, "step_size"),
}


@dataclass(frozen=True)
class Snapshot:
    """Copies of all tensors, with those of their optimisers as `<name>.<key>`, and what belongs to
    them.
    """

    tensors: dict[str, Tensor]
    iteration: int
    rates: dict[str, float]


class OuterState:
    """The tensors that distillation moves, with their optimisers and outer step sizes.

    These are pictures (M, C, H, W), text embeddings, further rows, and where a method trains
    students their log step sizes.

    Args:
        config: options of the method.
        budget: pairs that the set is named for; chooses step sizes.
        images, text_embeds: initial values (M, C, H, W) and (T, D), which are copied; images into
            the channels-last layout that convolutions take without a copy.
        further: further learnable tensors.
        num_earlier: the first pictures are of a finished set; `earlier_lr_scale` slows them, and
            what else belongs to them.
        encoder: gives the normalisation, for what 8 bits can hold.
        device: where they live.

    Attributes:
        tensors: all of them by name, changed in place. Several texts an image are
            (N, texts, D), where N = M x parts^2 counts images.
        num_images: N, what a mini-batch draws from.
        batch_size: images of a student step.
        history: one row for each iteration that is done.
    """

    def __init__(
        self,
        config: OuterConfig,
        budget: int,
        images: Tensor,
        text_embeds: Tensor,
        further: dict[str, Learnable],
        *,
        num_earlier: int = 0,
        encoder: ImageEncoder,
        device: torch.device,
    ) -> None:
        self._config, self._num_earlier = config, num_earlier
        self.num_images = len(images) * config.parts**2
        self._normalisation = (encoder.mean, encoder.std)
        self._is_rounded = config.storage == "uint8"
        if config.texts_per_image > 1:
            text_embeds = text_embeds.unflatten(0, (-1, config.texts_per_image))
        self.history: list[dict[str, float]] = []
        self.tensors = {
            "images": images.to(device).clone(memory_format=torch.channels_last),
            "text_embeds": _copy(text_embeds, device),
        }
        self._rates = {
            "images": for_budget(config.lr_img, budget, "lr_img"),
            "text_embeds": for_budget(config.lr_txt, budget, "lr_txt"),
        }
        for name, value in further.items():
            self.tensors[name] = _copy(value.initial, device)
            self._rates[name] = value.lr
        self.batch_size = self.num_images
        if isinstance(config, MatchingConfig):
            largest = int(for_budget(config.mini_batch_size, budget, "mini_batch_size"))
            self.batch_size = min(largest, self.num_images)
            for name, size in zip(LOGS, (config.step_size_img, config.step_size_txt), strict=True):
                # The logarithm keeps a step size positive whatever the outer steps do
                self.tensors[name] = torch.tensor(math.log(size), device=device)
                self._rates[name] = config.lr_step_size
        # One optimiser a tensor: kinds of tensors may have different ones, each its own step size
        self._optimisers = {}
        for name, tensor in self.tensors.items():
            self._optimisers[name] = _optimiser(config, name, tensor)

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return len(self.history)

    def rows(self) -> Rows:
        """Return the tensors that have a row per pair, as they would be stored now, detached."""
        rows = {name: value.detach() for name, value in self.tensors.items() if name not in LOGS}
        if self._is_rounded:
            rows["images"] = round_images(rows["images"], *self._normalisation)
            rows["text_embeds"] = round_texts(rows["text_embeds"])
        return rows

    def logs(self) -> dict[str, Tensor]:
        """Return log beta of each group; {} of a method that trains no students."""
        return {
            group: self.tensors[name]
            for group, name in zip(GROUPS, LOGS, strict=True)
            if name in self.tensors
        }

    def step_sizes(self) -> dict[str, float]:
        """Return beta of each group as it is now; {} of a method that trains no students."""
        return {group: float(value.exp()) for group, value in self.logs().items()}

    def step(self, grads: Rows) -> None:
        """Move the tensors that have a gradient by one step of their optimisers, in place."""
        decay = self._config.outer_decay(self.iteration)
        before = {name: rows.clone() for name, rows in self._earlier_rows().items()}
        for name, tensor in self.tensors.items():
            optimiser = self._optimisers[name]
            # Without a gradient the optimiser leaves a tensor alone, momentum included
            tensor.grad = _like(tensor, grads[name]) if name in grads else None
            optimiser.param_groups[0]["lr"] = self._rates[name] * decay
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if self._is_rounded:
            # Beyond black and white a pixel would change without effect
            keep_in_range(self.tensors["images"], *self._normalisation)
        scale = self._config.earlier_lr_scale
        for name, rows in self._earlier_rows().items():
            # Adam takes steps of one size whatever the gradient, so the step itself is scaled
            rows.copy_(before[name].lerp(rows, scale) if scale else before[name])

    def halve_rates(self) -> None:
        """Halve all outer step sizes from now on."""
        self._rates = {name: 0.5 * rate for name, rate in self._rates.items()}

    def _earlier_rows(self) -> Rows:
        """Return views of the rows that belong to earlier pairs, where these are slowed."""
        if not self._num_earlier or self._config.earlier_lr_scale == 1.0:
            return {}
        num_pictures, found = len(self.tensors["images"]), {}
        for name, tensor in self.tensors.items():
            if name not in LOGS:
                # A picture of several parts has several rows
                found[name] = tensor[: len(tensor) // num_pictures * self._num_earlier]
        return found

    def snapshot(self) -> Snapshot:
        """Return copies of everything that a step changes."""
        tensors = {}
        for name, tensor in self.tensors.items():
            tensors[name] = tensor.detach().clone()
            for key, value in self._optimisers[name].state.get(tensor, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value.detach().clone()
        return Snapshot(tensors, self.iteration, dict(self._rates))

    def return_to(self, stored: Snapshot) -> None:
        """Take everything from a snapshot, and forget the rows of history behind it."""
        for name, tensor in self.tensors.items():
            tensor.copy_(stored.tensors[name])
            own = {}
            for place, value in stored.tensors.items():
                owner, _, key = place.partition(".")
                if key and owner == name:
                    # Adam counts its steps on the CPU, its moments live with the tensor and are
                    # laid out like it.
                    own[key] = value.clone() if key == "step" else _like(tensor, value).clone()
            self._optimisers[name].state[tensor] = own
        self._rates = dict(stored.rates)
        del self.history[stored.iteration :]


def _copy(value: Tensor, device: torch.device) -> Tensor:
    return value.to(device).clone(memory_format=torch.contiguous_format)


def _optimiser(config: OuterConfig, name: str, tensor: Tensor) -> torch.optim.Optimizer:
    """Return the optimiser of one tensor; `step` sets its step size."""
    if config.optimiser_of(_KINDS.get(name, "sim")) == "adam":
        return torch.optim.Adam([tensor], lr=1.0)
    return torch.optim.SGD([tensor], lr=1.0, momentum=config.momentum)


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the device, dtype and memory layout of `tensor`, itself where it has
    them.
    """
    value = value.to(tensor)
    return value if value.stride() == tensor.stride() else torch.empty_like(tensor).copy_(value)
