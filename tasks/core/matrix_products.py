"""Float32 matrix products on AMD processors with AVX-512, through oneDNN.

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

# Floating-point operations of a product from which on oneDNN wins: below, its set-up costs more than the product (measured: even at 2e6).
SMALLEST = 4e6

_KEPT: list[torch.library.Library] = []  # a library takes its kernels along when it goes


def are_slow() -> bool:
    """Return whether torch's own float32 products leave this processor's AVX-512 unused, and oneDNN is there to replace them."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_both and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _vendor()


def use_fast_products() -> None:
    """Compute large float32 products of this process on the CPU by oneDNN from now on, where `are_slow()`; again changes nothing."""
    if not _KEPT and are_slow():
        replace_products()


def replace_products() -> None:
    """Register the kernels, on any processor that has oneDNN."""
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in (("mm", _mm), ("addmm", _addmm), ("mm.out", _mm_out), ("addmm.out", _addmm_out)):
        original = torch.library.get_kernel(f"aten::{name}", "CPU")
        library.impl(name, functools.partial(kernel, original), "CPU", with_keyset=True)
    _KEPT.append(library)


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a @ b + bias of (M, K), (K, N) and (N,) float32 tensors by oneDNN."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return found


def _is_large(a: Tensor, b: Tensor) -> bool:
    is_float = a.dtype is b.dtype is torch.float32
    return is_float and a.shape[1] == b.shape[0] and 2 * a.shape[0] * a.shape[1] * b.shape[1] >= SMALLEST


def _is_layer(bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> bool:
    """Whether it is the product of a Linear layer: one bias per column, nothing scaled."""
    return beta == 1 and alpha == 1 and bias.shape == b.shape[1:] and bias.dtype is torch.float32 and _is_large(a, b)


def _mm(original: Any, keys: object, a: Tensor, b: Tensor) -> Any:
    return product(a, b) if _is_large(a, b) else original.call_boxed(keys, a, b)


def _addmm(original: Any, keys: object, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if _is_layer(bias, a, b, beta, alpha):
        return product(a, b, bias)
    return original.call_boxed(keys, bias, a, b, beta=beta, alpha=alpha)


def _mm_out(original: Any, keys: object, a: Tensor, b: Tensor, *, out: Tensor) -> Any:
    if _is_large(a, b) and out.shape == (a.shape[0], b.shape[1]) and out.dtype is torch.float32:
        return out.copy_(product(a, b))
    return original.call_boxed(keys, a, b, out=out)


def _addmm_out(original: Any, keys: object, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor) -> Any:
    if _is_layer(bias, a, b, beta, alpha) and out.shape == (a.shape[0], b.shape[1]) and out.dtype is torch.float32:
        return out.copy_(product(a, b, bias))
    return original.call_boxed(keys, bias, a, b, beta=beta, alpha=alpha, out=out)


@functools.cache
def _vendor() -> str:
    """Return what names the processor's maker: Linux's list of processors, elsewhere the name that Windows gives it."""
    listing = Path("/proc/cpuinfo")
    return listing.read_text() if listing.is_file() else platform.processor()
