"""AdamW with warm-up and cosine decay, and what a checkpoint holds of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tasks.core.foundations.checkpoints import Parts

_STATES = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over all parameters; vectors (biases, scales) are not decayed."""
    matrices, vectors = list[nn.Parameter](), list[nn.Parameter]()
    for parameter in module.parameters():
        group = matrices if parameter.ndim > 1 else vectors
        group.append(parameter)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def schedule(step: int, num_steps: int, warm_up: float) -> float:
    """Return the factor of the step size, 0..1: a linear rise over the share `warm_up` of all
    steps, then half a cosine down to 0.
    """
    rise = math.ceil(warm_up * num_steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / (num_steps - rise)))


def moments(optimiser: torch.optim.Optimizer) -> Parts:
    """Return what AdamW keeps, by kind and number of the parameter; empty before its first step."""
    states = optimiser.state_dict()["state"]
    return {kind: {str(n): state[kind] for n, state in states.items()} for kind in _STATES}


def set_moments(optimiser: torch.optim.Optimizer, parts: Parts) -> None:
    """Put `moments` back; each has the memory layout that AdamW would have given it."""
    flat = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, step in parts.get("step", {}).items():
        parameter = flat[int(number)]
        state: dict[str, Tensor] = {"step": step}
        for kind in _STATES[1:]:
            state[kind] = torch.empty_like(parameter).copy_(parts[kind][number])
        optimiser.state[parameter] = state
