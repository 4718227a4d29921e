"""Puts low-rank adapters (Hu et al., ICLR 2022) into an image encoder: W x + (alpha / rank) B A x,
with W frozen (METHOD 2).

The paper puts them into Vision Transformers. A 1 x 1 convolution is the same product at every
pixel, so adapters fit networks like MobileNetV2 too (`conv_pw`, `conv_pwl`, `conv_head`). The
library peft puts the layers in place. Their initial values are drawn here: A from the seed of the
model, and B = 0, so that the adapted encoder begins as the given one. Differentiating such a
network twice needs the math kernel of attention, which `hypergradient/trajectory.py` chooses.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from torch import nn

from tasks.core.foundations.section import Range, Section
from tasks.core.foundations.seeding import make_generator

# Linear layers of timm's Vision Transformers. `attn.proj` in full, for the patch embedding has a
# `proj` too. Below them the 1 x 1 convolutions of MobileNetV2.
LoraLinear = Literal["attn.qkv", "attn.proj", "fc1", "fc2"]


LoraConvolution = Literal["conv_pw", "conv_pwl", "conv_head"]


LORA_LINEAR: tuple[str, ...] = get_args(LoraLinear)


LORA_CONVOLUTIONS: tuple[str, ...] = get_args(LoraConvolution)


@dataclass(frozen=True, kw_only=True)
class LoraSection(Section):
    """Low-rank adapters of the image encoder: W x + (alpha / rank) B A x.

    Attributes:
        rank: of the product B A; the paper uses 4.
        alpha: scale of the adapters; alpha = rank adds B A x as it is.
        targets: layers that get an adapter: linear layers of a Vision Transformer, or 1 x 1
            convolutions of MobileNetV2 and its kin.
    """

    rank: Annotated[int, Range(ge=1, le=1024)]
    alpha: Annotated[float, Range(gt=0.0, le=1024.0)]
    targets: tuple[Literal[LoraLinear, LoraConvolution], ...]


_ADAPTER = "default"


def with_adapters(encoder: nn.Module, section: LoraSection, *, seed: int) -> nn.Module:
    """Return a copy of `encoder` with adapters in its target layers. No other parameter requires a
    gradient.

    Args:
        encoder: (B, C, H, W) -> (B, d_img); it is not changed and shares no tensor with the copy.
        section: rank, alpha and target layers.
        seed: A ~ U(+-1/sqrt(fan_in)), drawn for each layer by its name; B = 0.

    Raises:
        ValueError: there is no target, or the encoder does not call a linear layer or 1 x 1
            convolution of that name.
    """
    layers = target_layers(encoder, section.targets)
    from peft import LoraConfig, inject_adapter_in_model

    adapted = copy.deepcopy(encoder).requires_grad_(False)
    # Full names: peft would match a suffix with any convolution, also with a 3 x 3 one
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]
        target_modules=layers,
        lora_dropout=0.0,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):  # peft draws weights, which are replaced
        inject_adapter_in_model(config, adapted, adapter_name=_ADAPTER)
    for name in layers:
        layer: Any = adapted.get_submodule(name)
        down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        # A is (rank, d_in), or (rank, C, 1, 1) of a convolution: d_in or C is the fan-in
        bound = down[0].numel() ** -0.5
        # A generator per layer: another choice of targets leaves the draws of a layer as they are
        initial = torch.empty(down.shape).uniform_(
            -bound, bound, generator=make_generator(seed, "lora", name)
        )
        with torch.no_grad():
            down.copy_(initial)
            up.zero_()
    return adapted.eval()


def target_layers(encoder: nn.Module, targets: Sequence[str]) -> list[str]:
    """Return the full names of the layers of `encoder` that `targets` name, in the order of the
    module. Raises ValueError as `with_adapters` does.
    """
    allowed = (
        f"allowed are {', '.join(LORA_LINEAR)} of a Vision Transformer, or "
        f"{', '.join(LORA_CONVOLUTIONS)} (1 x 1 convolutions) of "
        "MobileNetV2 and its kin; change model.lora.targets or model.image_encoder"
    )
    if not targets or len(set(targets)) != len(targets):
        raise ValueError(
            f"LoRA needs at least one target and none twice; received {list(targets)}; {allowed}"
        )
    found = []
    absent = list(targets)
    for name, layer in encoder.named_modules():
        fitting = [target for target in targets if _fits(layer, name, target)]
        if fitting:
            found.append(name)
            absent = [target for target in absent if target not in fitting]
    if absent:
        raise ValueError(
            f"{type(encoder).__name__} has no linear layer or 1 x 1 convolution named "
            f"{', '.join(absent)} for LoRA to adapt; {allowed}"
        )
    for name in found:
        owner = encoder.get_submodule(name.rpartition(".")[0])
        # BEiT, EVA and Swin v2 add separate biases. They read the weight of `qkv` and never call
        # the layer, so an adapter in its place would do nothing.
        if name.endswith(".qkv") and getattr(owner, "q_bias", None) is not None:
            raise ValueError(
                f"{type(encoder).__name__} reads the weight of {name} without calling it, which "
                f"LoRA cannot adapt; {allowed}"
            )
    return found


def _fits(layer: nn.Module, name: str, target: str) -> bool:
    """Return whether a target means this layer, by its name and its type. The type matters: a
    squeeze-and-excitation block has convolutions called `fc1` too.
    """
    if not f".{name}".endswith(f".{target}"):
        return False
    if target in LORA_LINEAR:
        return isinstance(layer, nn.Linear)
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.groups == 1
    )
