"""Hard sigmoids in a form that has second derivatives, which torch's own kernel lacks.

The exact engines of `matching.py` differentiate a gradient. torch.nn.functional.hardsigmoid has
neither a second reverse derivative nor a forward one of its gradient, and in float64 its gradient
is that of float32 (6e-9 off), which one-sided differences divide by eps. relu6(x + 3) / 6 has them
all; on the CPU its values and float32 gradients equal torch's to the last bit, on a GPU, where
torch multiplies by 1/6, to one unit of it. Hard swish needs nothing.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class HardSigmoid(nn.Module):
    """relu6(x + 3) / 6, without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of x, in its shape, within 0..1; x stays as it is."""
        return functional.relu6(x + 3.0) / 6.0


def use_differentiable_activations(module: nn.Module) -> None:
    """Replace every torch.nn.Hardsigmoid inside `module`, in place."""
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if name and type(layer) is nn.Hardsigmoid:
            module.set_submodule(name, HardSigmoid().train(layer.training))
