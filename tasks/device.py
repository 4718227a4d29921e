"""Which device the stages compute on: the CUDA card when there is one, otherwise the CPU with the products that suit it."""

from __future__ import annotations

import torch

from tasks.core import matrix_products


def choose_device() -> torch.device:
    """Return the first CUDA device, or the CPU; CUDA_VISIBLE_DEVICES chooses among cards.

    On the CPU, large products of the whole process go to oneDNN from then on, where that helps (`core/matrix_products.py`).
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    matrix_products.use_fast_products()
    return torch.device("cpu")


def describe() -> str:
    """Return a short description for manifests and the report."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"CPU, {torch.get_num_threads()} threads{', oneDNN' if matrix_products.are_better() else ''}"
