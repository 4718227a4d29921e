"""Float32 matrix products on AMD processors with AVX-512, through oneDNN (infra/adr/0006).

There the MKL inside torch keeps to AVX2: a product of 1576 x 192 by 192 x 768 numbers runs at 112 GFLOP/s on one core of a Zen 5, and
at 250 by oneDNN, which torch has too and uses for convolutions (tests/benchmarks/engine_table.py: an iteration of a ViT takes 0.6 of
the time). Below autograd, so that every derivative, also of second order or forward, uses the same kernels. Results differ from MKL's
by rounding.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Products that go to oneDNN: measured, it is as fast as MKL at 2e6 operations and 1.3 times at 4e6; with one row or column it is slower
# at any size (352 for 91 microseconds), with 8 rows 1.4 times as fast.
SMALLEST = 4e6
THINNEST = 8


def can_replace() -> bool:
    """Return whether this torch has oneDNN's product and lets a program register kernels that fall back to its own."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.library, "get_kernel")


def are_better() -> bool:
    """Return whether oneDNN's products are to be had, and MKL's leave this processor's AVX-512 unused."""
    is_wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return can_replace() and torch.backends.mkl.is_available() and is_wide and "AuthenticAMD" in _vendor()


def use_fast_products() -> None:
    """Compute large float32 products of this process on the CPU by oneDNN from now on, where they `are_better()`."""
    if are_better():
        replace_products()


@functools.cache
def replace_products() -> torch.library.Library:
    """Register the kernels, on any processor that has oneDNN; again changes nothing.

    Returns:
        What holds them: they go with it, once `replace_products.cache_clear()` has let go of it.
    """
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in (("mm", _mm), ("addmm", _addmm), ("mm.out", _mm_out), ("addmm.out", _addmm_out)):
        original = torch.library.get_kernel(f"aten::{name}", "CPU")
        library.impl(name, functools.partial(kernel, original), "CPU", with_keyset=True)
    return library


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a @ b + bias of (M, K), (K, N) and (N,) float32 tensors of any layout by oneDNN."""
    # oneDNN reads N numbers from where the bias begins, whatever its stride.
    bias = None if bias is None else bias.contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(_in_rows(a), _in_rows(b).t(), bias, "none", [], "")
    return found


def _in_rows(factor: Tensor) -> Tensor:
    """Return the matrix with its rows or columns in one piece, itself where they are.

    For other layouts oneDNN has a general kernel alone: an expanded 128 x 768 factor, as forward derivatives of sums have them, took
    130 ms where a copy of it takes 0.2.
    """
    strides = factor.stride()
    return factor if 1 in strides and 0 not in strides else factor.contiguous()


def _is_large(a: Tensor, b: Tensor) -> bool:
    if not (a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.dtype is b.dtype is torch.float32):
        return False
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] >= SMALLEST and min(a.shape[0], b.shape[1]) >= THINNEST


def _is_layer(bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> bool:
    """Whether it is the product of a Linear layer: one bias per column, nothing scaled."""
    return beta == 1 and alpha == 1 and bias.shape == b.shape[1:] and bias.dtype is torch.float32 and _is_large(a, b)


def _fits(out: Tensor, a: Tensor, b: Tensor) -> bool:
    return out.shape == (a.shape[0], b.shape[1]) and out.dtype is torch.float32


def _mm(original: Any, keys: object, a: Tensor, b: Tensor) -> Any:
    return product(a, b) if _is_large(a, b) else original.call_boxed(keys, a, b)


def _addmm(original: Any, keys: object, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if _is_layer(bias, a, b, beta, alpha):
        return product(a, b, bias)
    return original.call_boxed(keys, bias, a, b, beta=beta, alpha=alpha)


def _mm_out(original: Any, keys: object, a: Tensor, b: Tensor, *, out: Tensor) -> Any:
    if _is_large(a, b) and _fits(out, a, b):
        return out.copy_(product(a, b))
    return original.call_boxed(keys, a, b, out=out)


def _addmm_out(original: Any, keys: object, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor) -> Any:
    if _is_layer(bias, a, b, beta, alpha) and _fits(out, a, b):
        return out.copy_(product(a, b, bias))
    return original.call_boxed(keys, bias, a, b, beta=beta, alpha=alpha, out=out)


@functools.cache
def _vendor() -> str:
    """Return what names the processor's maker: Linux's list of processors, elsewhere the name that Windows gives it."""
    listing = Path("/proc/cpuinfo")
    return listing.read_text() if listing.is_file() else platform.processor()
