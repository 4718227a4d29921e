"""Folds BatchNorm into the convolution before it. The result is the same, in fewer passes over
memory.

In eval mode BN(conv(x)) = s * (conv(x) - mean) + beta with s = gamma / sqrt(var + eps). That is a
convolution with weight * s and bias * s + beta - mean * s.
`frozen_features.prepare_frozen` uses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

# Largest relative change of the output that counts as rounding. In float32 rounding changes the
# features by 1e-6 (timm mobilenetv2_100, 52 layers), a wrong fold by about 1.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class _Pair:
    """A convolution, the one BatchNorm that reads its output, and the input it had in the example.

    Nothing else reads the output of the convolution.
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    inputs: Tensor


def fold_batch_norm(module: nn.Module, example: Tensor) -> int:
    """Fold BatchNorm2d layers into Conv2d layers in place, and return how many were folded.

    A BatchNorm is folded if it is in eval mode and nothing else reads the output of its
    convolution. Such pairs are found by one forward pass of `example`. The activation inside timm's
    BatchNormAct2d stays, as a module of its own.

    Left alone are layers that are called more than once, and BatchNorm without running statistics.
    So are convolutions that do not use their weight as it is (weight standardisation,
    parametrisations).

    Args:
        module: frozen network, (B, C, H, W) -> a tensor.
        example: (B, C, H, W) inputs of the usual size, on the device of the module.

    Raises:
        ValueError: a parameter requires a gradient, or the output changes by more than rounding
            (1e-4 relative). The module is then as it was.
    """
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    if trainable:
        raise ValueError(
            f"BatchNorm is folded into frozen networks only; {len(trainable)} parameters require "
            f"a gradient, first {trainable[0]}; "
            "call requires_grad_(False) on a copy, or leave a trained network as it is"
        )
    expected = _run(module, example)
    undo = [
        step for pair in _find_pairs(module, example) if (step := _fold(module, pair)) is not None
    ]
    change = _relative_change(_run(module, example), expected)
    # `not <=`, because a NaN has to be refused too
    if not change <= _TOLERANCE:
        for step in reversed(undo):
            step()
        raise ValueError(
            f"folding {len(undo)} BatchNorm layers of {type(module).__name__} changes its output "
            f"by {change:.2g} relative; allowed is "
            f"{_TOLERANCE:g} (rounding); use the network unfolded, or another image_encoder"
        )
    return len(undo)


def _find_pairs(module: nn.Module, example: Tensor) -> list[_Pair]:
    """Return the pairs that can be folded, found by one forward pass with hooks.

    The autograd graph tells what reads the output of a convolution. Hooks on modules alone would
    miss functional uses, such as the addition of a residual.
    """
    convs: dict[Node, tuple[nn.Conv2d, Tensor]] = {}
    norms: list[tuple[nn.BatchNorm2d, Node]] = []
    ends: list[Node | None] = []
    calls: Counter[nn.Module] = Counter()

    def after_conv(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[conv] += 1
        if isinstance(conv, nn.Conv2d) and output.grad_fn is not None:
            convs[output.grad_fn] = conv, inputs[0].detach()

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        # Compared by graph node: a change of the tensor in place makes another node
        if isinstance(norm, nn.BatchNorm2d) and inputs[0].grad_fn in convs:
            norms.append((norm, inputs[0].grad_fn))

    def after_norm(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if norms and norms[-1][0] is norm and len(ends) < len(norms):
            ends.append(output.grad_fn)

    hooks = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(after_conv))
        elif isinstance(part, nn.BatchNorm2d):
            hooks += [
                part.register_forward_pre_hook(before_norm),
                part.register_forward_hook(after_norm),
            ]
    try:
        # An input with a gradient lets frozen layers record a graph. The product is no leaf, so
        # that a first layer may work in place.
        with torch.enable_grad():
            output = module(example.detach().clone().requires_grad_() * 1)
    finally:
        for hook in hooks:
            hook.remove()
    # `end in readers`: the BatchNorm lies on the way to the output
    readers = _count_readers(output.grad_fn)
    return [
        _Pair(convs[node][0], norm, convs[node][1])
        for (norm, node), end in zip(norms, ends, strict=True)
        if calls[norm] == calls[convs[node][0]] == 1
        and readers[node] == 1
        and end in readers
        and _is_foldable(convs[node][0], norm)
    ]


def _count_readers(root: Node | None) -> Counter[Node | None]:
    """Return, for each node of the graph, how many operations on the way to the output read its
    result. The caller counts as the one reader of the output.
    """
    readers: Counter[Node | None] = Counter([root])
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for parent, _ in node.next_functions if node is not None else ():
            if parent is not None and parent not in readers:
                waiting.append(parent)
            readers[parent] += 1
    return readers


def _is_foldable(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    # A parametrisation computes `weight` in each call: it is no parameter to replace
    is_own_weight = isinstance(conv._parameters.get("weight"), nn.Parameter)
    return (
        is_own_weight
        and not norm.training
        and norm.running_mean is not None
        and norm.running_var is not None
    )


def _fold(module: nn.Module, pair: _Pair) -> Callable[[], None] | None:
    """Fold one pair in place and return a function that undoes it.

    None, with nothing changed, where the folded layer gives another result. The forward pass of
    such a convolution does more than to apply its weight.
    """
    conv, norm = pair.conv, pair.norm
    replacement = getattr(norm, "act", None) or nn.Identity()
    with torch.no_grad():
        expected = norm(conv(pair.inputs))
    weight, bias = conv.weight, conv.bias
    conv.weight, conv.bias = _folded(conv, norm)
    with torch.no_grad():
        change = _relative_change(replacement(conv(pair.inputs)), expected)
    # A module may be registered under several names
    places = []
    for part in module.modules():
        for name, child in part._modules.items():
            if child is norm:
                places.append((part, name))

    def undo() -> None:
        conv.weight, conv.bias = weight, bias
        for part, name in places:
            part._modules[name] = norm

    if not change <= _TOLERANCE:
        undo()
        return None
    for part, name in places:
        part._modules[name] = replacement
    return undo


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weight and bias of the convolution that equals both layers, in the dtype and memory
    layout of the weight.
    """
    assert norm.running_mean is not None and norm.running_var is not None  # by _is_foldable
    # float64 until the end: each product would round once more
    weight, mean = conv.weight.detach(), norm.running_mean.double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale
    if norm.affine:
        shift = shift + norm.bias.detach().double()
    if conv.bias is not None:
        shift = shift + conv.bias.detach().double() * scale
    folded = (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    new_weight = torch.empty_like(weight, memory_format=torch.preserve_format).copy_(folded)
    return nn.Parameter(new_weight, requires_grad=False), nn.Parameter(
        shift.to(weight.dtype), requires_grad=False
    )


def _run(module: nn.Module, example: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = module(example)
    return output


def _relative_change(got: Tensor, expected: Tensor) -> float:
    return float(
        (got - expected).norm() / expected.norm().clamp_min(torch.finfo(expected.dtype).tiny)
    )
