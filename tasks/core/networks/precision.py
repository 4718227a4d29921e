"""Computes the matrix products of stage 2 as the options `precision` and `is_compiled` say.

* `tf32`: float32 products and convolutions on CUDA may use TF32 (10 bits of mantissa). This holds
  for logits and terminal loss too.
* `bfloat16`: encoder and projections run under torch.autocast; parameters, lambda, updates, logits
  and loss stay float32. Its errors are in tests/benchmarks/README.md; a MobileNetV2 trained as a
  whole should not use it. Engines of differences refuse it, because they divide its rounding by
  eps.
* `is_compiled`: torch.compile of the image encoder, for first derivatives alone. torch 2.15 has no
  second ones through compiled code ("torch.compile with aot_autograd does not currently support
  double backward"). `forward_over_reverse` would fall back to plain code without a word.

Features of real images and of finished sets under a frozen encoder are always float32. Experts,
models of coresets and students of evaluation keep the settings of torch: on CUDA their convolutions
may use TF32, their matrix products not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasks.core.networks.functional import FlatModel

Precision = Literal["float32", "tf32", "bfloat16"]

_COMPILE: dict[str, Any] = {"fullgraph": True}
# torch compiles one graph per shape, piece of kinks.py and kind of derivative. Beyond this number
# `fullgraph` makes it an error, where torch would go on without compiling.
_MAX_GRAPHS = 64


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Allow TF32 on CUDA inside for `tf32`, and switch it off for the other precisions. By default
    torch's convolutions use it.

    The switch is global to the process, so two threads must not use this at once.
    """
    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    wanted = "high" if precision == "tf32" else "highest"
    torch.set_float32_matmul_precision(wanted)
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def check_machine(precision: Precision, *, is_compiled: bool, device: torch.device) -> None:
    """Raise ValueError when the device has no TF32, or when code cannot be compiled for it. The
    latter is found out by compiling one line.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(
            f"precision: received 'tf32' on the device {device}, which has none; allowed are "
            "float32 and bfloat16, or a CUDA device; "
            "change `precision` in distill.matching of params.yaml"
        )
    if not is_compiled:
        return
    try:
        # A cached graph would answer without asking the compiler
        with torch._inductor.config.patch(fx_graph_cache=False):
            torch.compile(lambda x: x.sin() + 1.0, **_COMPILE)(torch.zeros(2, device=device))
    except Exception as error:  # torch has a dozen, some of them private
        raise ValueError(
            f"is_compiled: received true, but torch cannot compile for the device {device} "
            f"({_first_line(error)}); needed are a C++ "
            "compiler (g++) and, on CUDA, Triton; install them or set `is_compiled: false` in "
            "distill.matching of params.yaml"
        ) from error


def student_model(flat: FlatModel, precision: Precision, *, is_compiled: bool) -> FlatModel:
    """Return the model that student steps call: `flat` itself, or for `bfloat16` one around the
    same module. With `is_compiled` the image encoder is compiled in place.
    """
    if is_compiled:
        _allow_graphs()
        # Student steps have few batch sizes, so graphs of fixed shapes serve
        flat.model.get_submodule("image_encoder").compile(dynamic=False, **_COMPILE)
    return RoundedModel(flat.model) if precision == "bfloat16" else flat


def frozen_encoder(module: nn.Module, precision: Precision, *, is_compiled: bool) -> nn.Module:
    """Return a frozen encoder for computing features and pulling their gradients back. `module` is
    not changed.
    """
    module = RoundedEncoder(module) if precision == "bfloat16" else module
    if is_compiled:
        _allow_graphs()
        # A wrapper, because `compile` changes the module that it is called on
        module = nn.Sequential(module)
        # The last micro-batch may have any size, and each size would be another graph
        module.compile(dynamic=True, **_COMPILE)
    return module


class RoundedModel(FlatModel):
    """A flat model with matrix products that round their factors to bfloat16. Theta, results and
    gradients keep their dtype.
    """

    def call(
        self,
        theta: Mapping[str, Tensor],
        images: Tensor,
        text_embeds: Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        with _rounded(self.device):
            img, txt = super().call(theta, images, text_embeds, generator)
        return img.to(self.dtype), txt.to(self.dtype)

    def encode(self, theta: Mapping[str, Tensor], images: Tensor) -> Tensor:
        with _rounded(self.device):
            features = super().encode(theta, images)
        return features.to(self.dtype)


class RoundedEncoder(nn.Module):
    """A frozen encoder with matrix products that round their factors to bfloat16. Images and
    features keep their dtype.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        with _rounded(images.device):
            features: Tensor = self.module(images)
        return features.to(images.dtype)


def _allow_graphs() -> None:
    # Set globally, because not every version of torch takes the limit as an argument of `compile`.
    # By version it holds for the process, or for this thread, in which the steps run too.
    torch._dynamo.config.recompile_limit = max(_MAX_GRAPHS, torch._dynamo.config.recompile_limit)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _rounded(device: torch.device) -> torch.autocast:
    # The cache keeps casts of parameters, and each functional call brings other tensors
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
