"""Which device the stages compute on: the CUDA card when there is one, otherwise the CPU with products and memory that suit it."""

from __future__ import annotations

import torch

from tasks.core import allocator, matrix_products


def choose_device() -> torch.device:
    """Return the first CUDA device, or the CPU; CUDA_VISIBLE_DEVICES chooses among cards.

    On the CPU, from then on the whole process keeps the memory that it frees (`core/allocator.py`), and its large products go to oneDNN
    where that helps (`core/matrix_products.py`).
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    allocator.keep_freed_memory()
    matrix_products.use_fast_products()
    return torch.device("cpu")


def describe() -> str:
    """Return a short description for manifests and the report."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"CPU, {torch.get_num_threads()} threads{', oneDNN' if matrix_products.are_better() else ''}"
