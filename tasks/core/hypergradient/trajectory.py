"""Computes the gradient of a terminal loss with respect to the synthetic pairs that a student was
trained on, in constant memory (METHOD 5).

A student takes T steps of SGD with momentum (0 in the paper) and ends in L(theta_T):

    g_t = grad_theta l(theta_t; rows of batch t)
    v_t = g_t + momentum * v_{t-1}
    theta_{t+1} = theta_t - beta * v_t

The reverse sweep keeps one step's graph alive. Per step it needs the second-order products h:

    w_t = beta * lambda_{t+1} + momentum * w_{t+1}
    h = d/d(theta, rows) <g_t, w_t>
    dL/d(log beta) = -sum <g_t, w_t>

The gradient g_t enters all later velocities v. So w_t adds up the lambda of all later steps.

Shapes: theta, v, w and lambda are {"img": (P_img,), "txt": (P_txt,)}, beta and log beta scalars by
group. Rows of the set are (M, ...) by name, those of a batch (B, ...).

The engines differ in how they get h:

* `unroll`: plain autograd through all steps; exact, memory grows with T. The oracle of the tests.
* `double_backward`: reverse over reverse; exact.
* `forward_over_reverse`: derivative of the gradients along w; exact.
* `central_difference`: two more gradients at theta +- eps w; error O(eps^2) plus rounding, no
  second derivative.
* `forward_difference`: one more gradient at theta + eps w, against the one of the forward sweep;
  error O(eps) plus rounding.
* `tesla`: drops lambda -= h_theta (arXiv 2211.10586); a biased gradient, kept for comparison.

The exact engines run attention with the math kernel: the fused ones have no second derivative. The
differences switch TF32 off, because they divide its rounding by eps. When the images are constants,
layers before the first trained parameter record no graph. An example is the patch embedding of a
ViT with adapters.

Read `sweep.py` next. What each engine needs and can do: `engines.py`. Which one is best where:
`engine_choice.py`. Batches are drawn in `student_step.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tasks.core.hypergradient.engines import ENGINES, check_memory
from tasks.core.hypergradient.micro_batches import MicroBatches
from tasks.core.hypergradient.second_order import each
from tasks.core.hypergradient.student_step import (
    IMAGES,
    Encode,
    LossFn,
    Rows,
    StudentStep,
)
from tasks.core.hypergradient.sweep import Gradient, Terminal, Trajectory
from tasks.core.networks.functional import GROUPS, Theta
from tasks.core.networks.precision import products

__all__ = ["Encode", "Gradient", "LossFn", "Rows", "mean_gradient", "trajectory_gradient"]


def mean_gradient(parts: Sequence[Gradient]) -> Gradient:
    """Return the gradient of the mean of several terminal losses with respect to the same inputs.
    Its `theta` is that of the last part.
    """
    if len(parts) == 1:
        return parts[0]
    loss = sum(part.loss for part in parts) / len(parts)
    inputs = each(_mean, *[part.inputs for part in parts])
    logs = each(_mean, *[part.log_step_sizes for part in parts])
    return Gradient(loss, inputs, logs, parts[-1].theta)


def trajectory_gradient(
    loss_fn: LossFn,
    theta0: Theta,
    inputs: Rows,
    batches: Sequence[Tensor],
    log_step_sizes: dict[str, Tensor],
    terminal: Terminal,
    *,
    engine: str,
    momentum: float = 0.0,
    constants: Rows | None = None,
    encode: Encode | None = None,
    micro_batch: int | None = None,
    is_theta_on_host: bool = False,
) -> Gradient:
    """Train T steps on the synthetic pairs and differentiate the terminal loss (METHOD 5).

    Args:
        loss_fn: `loss_fn(theta, rows, step) -> scalar`. It has to give the same value when it is
            called again: seed dropout and augmentation by `step`.
        theta0: parameters before the first step, {"img": (P_img,), "txt": (P_txt,)}.
        inputs: tensors with one row per pair, all to be differentiated: (M, ...).
        batches: T index tensors (B,) into the rows.
        log_step_sizes: log beta of each group, scalars.
        terminal: L(theta_T), a scalar.
        engine: one of `engines.ENGINES`.
        momentum: of the student's steps, 0 up to 1 (not included); its velocity starts at zero.
        constants: further rows for `loss_fn`, (M, ...), that are not differentiated.
        encode: `encode(theta, images) -> features`, row by row; `loss_fn` then finds features in
            rows["images"].
        micro_batch: images that `encode` gets at a time, to bound memory; the result is the same.
            None: the whole batch.
        is_theta_on_host: keep the T parameter vectors (`central_difference` T + 1;
            `forward_difference` 2T, and T gradients of a batch) in pinned host memory.

    Returns:
        The `Gradient`; nothing is modified in place. Until the loss is read at the very end, the
        device is never waited for.

    Raises:
        ValueError: options that do not go together.
    """
    constants = constants or {}
    _check({**constants, **inputs}, encode, micro_batch)
    check_memory(
        engine,
        micro_batch=micro_batch,
        is_theta_on_host=is_theta_on_host,
        where="trajectory_gradient",
    )
    # Micro-batches cost one more forward pass, so batches that fit into one run whole
    student = StudentStep(loss_fn, encode)
    longest = max(len(batch) for batch in batches)
    if encode is not None and micro_batch is not None and micro_batch < longest:
        student = MicroBatches(loss_fn, encode, micro_batch)
    device = theta0["txt"].device
    trajectory = Trajectory(
        {group: theta0[group].detach() for group in GROUPS},
        each(torch.detach, inputs),
        constants,
        [batch.to(device) for batch in batches],
        log_step_sizes,
        momentum,
    )
    chosen = ENGINES[engine]
    setting: AbstractContextManager[object] = products("float32")
    if chosen.needs_second_derivatives:
        setting = sdpa_kernel(SDPBackend.MATH)  # the fused kernels have none
    # The caller may have switched gradients off, which the steps need
    with setting, torch.enable_grad():
        return chosen.gradient(student, trajectory, terminal, is_theta_on_host)


def _check(rows: Rows, encode: Encode | None, micro_batch: int | None) -> None:
    if set(rows) & set(GROUPS):
        raise ValueError(
            f"rows must not be called {' or '.join(GROUPS)}, the names of parameter groups; "
            f"received {', '.join(rows)}"
        )
    if encode is not None and IMAGES not in rows:
        raise ValueError(
            f"`encode` needs rows called {IMAGES!r}; received {', '.join(rows)}; give the images "
            "as input or constant"
        )
    if micro_batch is not None and (encode is None or micro_batch < 1):
        raise ValueError(
            f"micro-batches need `encode` and at least 1 image each; received {micro_batch} and "
            f"encode={encode}"
        )


def _mean(*values: Tensor) -> Tensor:
    # A sum keeps the memory layout of images (channels-last), which torch.stack would lose
    return functools.reduce(torch.add, values) / len(values)
