"""Which gradient engine `auto` stands for, by measurement (tests/benchmarks/engine_table.py)."""

from __future__ import annotations

from torch import nn

# Layers at which a gradient jumps (kinks.py), beside the smooth activations that they are counted against.
_KINKED = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Hardsigmoid, nn.Hardswish)
_SMOOTH = (nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.Softplus, nn.Tanh)


def choose_engine(image_encoder: nn.Module, *, is_encoder_frozen: bool) -> str:
    """Return the name of an engine of `matching.py`.

    Measured on one CPU thread, 8 steps, batch 32, float32: processor time and peak memory over those of `unroll`, and the error of
    the gradient of the images:

    | network | double_backward | forward_over_reverse | central_difference | forward_difference |
    |---|---|---|---|---|
    | NF-net (test_nfnet, 64 px) | 1.37, 0.22, exact | 1.67, 0.35, exact | 0.94, 0.09, 1e-3 | 0.59, 0.10, 4e-3 |
    | attention (test_vit, 64 px) | 1.37, 0.36, exact | 1.76, 0.55, exact | 1.01, 0.27, 2e-4 | 0.75, 0.31, 5e-3 |

    * frozen encoders: `double_backward`; the student is two small projections, and the exact gradient costs next to nothing.
    * smooth networks, convolutional or attention: `forward_difference`, the fastest, in the memory of ordinary training.
    * networks whose activations are mostly piecewise (MobileNet, ResNet): `central_difference`; they are curved more strongly,
      and the one-sided difference had an error of 1e-2 where the central one had 2e-3.

    The differences beat the exact engines in memory too, so memory decides nothing. On a GPU nothing was measured; the rules are
    the same there, since the number of gradients is.

    Args:
        image_encoder: the network, looked at but not changed.
        is_encoder_frozen: whether the student trains projections on features only.
    """
    if is_encoder_frozen:
        return "double_backward"
    kinked = sum(isinstance(layer, _KINKED) for layer in image_encoder.modules())
    smooth = sum(isinstance(layer, _SMOOTH) for layer in image_encoder.modules())
    return "central_difference" if kinked > smooth else "forward_difference"
