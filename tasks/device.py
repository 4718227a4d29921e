"""Which device the stages compute on: the CUDA card when there is one, otherwise the CPU."""

from __future__ import annotations

import torch


def choose_device() -> torch.device:
    """Return the first CUDA device, or the CPU; CUDA_VISIBLE_DEVICES chooses among cards."""
    name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def describe() -> str:
    """Return a short description for manifests and the report."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    count = torch.get_num_threads()
    return "CPU, 1 thread" if count == 1 else f"CPU, {count} threads"
