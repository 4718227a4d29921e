"""Attention with learnt biases by position, without a memory of earlier calls: timm's LeViT,
EfficientFormer, TinyViT, EfficientViT-M.

In eval mode, in which everything here computes, these layers keep the biases of their first call:
later calls under other parameters would use those of the first, and their graphs, which no copy of
a network may hold.
"""

from __future__ import annotations

from torch import nn

CACHE = "attention_bias_cache"


def forget_attention_biases(module: nn.Module) -> None:
    """Make every such layer inside `module` gather its biases anew in each call, in place."""
    for layer in module.modules():
        if isinstance(getattr(layer, CACHE, None), dict):
            layer.register_forward_pre_hook(_forget)
            layer.register_forward_hook(_forget)


def _forget(layer: nn.Module, *_: object) -> None:
    setattr(layer, CACHE, {})
