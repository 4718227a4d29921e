"""The gradient of a terminal loss with respect to the synthetic pairs that a student was trained
on, in constant memory.

METHOD 5. A student takes T steps of SGD with momentum (0 in the paper) and ends in L(theta_T):

    g_t = grad_theta l(theta_t; rows of batch t)
    v_t = g_t + momentum * v_{t-1}
    theta_{t+1} = theta_t - beta * v_t

The reverse sweep keeps one step's graph alive. Per step it needs the second-order products h:

    w_t = beta * lambda_{t+1} + momentum * w_{t+1}
    h = d/d(theta, rows) <g_t, w_t>
    dL/d(log beta) = -sum <g_t, w_t>

As g_t enters all later v, w_t gathers all later lambda. The engines differ in how they get h:

* `unroll`: plain autograd through all steps; exact, memory grows with T. The oracle of the tests.
* `double_backward`: reverse over reverse; exact.
* `forward_over_reverse`: derivative of the gradients along w; exact.
* `central_difference`: two more gradients at theta +- eps w; error O(eps^2) plus rounding, no
  second derivative.
* `forward_difference`: one more gradient at theta + eps w, against the one of the forward sweep;
  error O(eps) plus rounding.
* `tesla`: drops lambda -= h_theta (arXiv 2211.10586); a biased gradient, kept for comparison.

The exact engines run attention with the math kernel: the fused ones have no second derivative. The
differences switch TF32 off. Layers before the first trained parameter record no graph when the
images are constants. An example is the patch embedding of a ViT with adapters. Which engine is best
where: `engine_choice.py`. Batches are drawn in `student_step.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tasks.core.hypergradient.micro_batches import MicroBatches
from tasks.core.hypergradient.second_order import leaves
from tasks.core.hypergradient.student_step import (
    IMAGES,
    Batch,
    Encode,
    LossFn,
    Rows,
    StudentStep,
    WholeBatch,
)
from tasks.core.hypergradient.sweep import DIFFERENCES, Sweep
from tasks.core.networks.functional import GROUPS, Theta
from tasks.core.networks.precision import products

__all__ = [
    "ENGINES",
    "Encode",
    "Gradient",
    "LossFn",
    "Rows",
    "mean_gradient",
    "trajectory_gradient",
]

ENGINES = (
    "unroll",
    "double_backward",
    "forward_over_reverse",
    "central_difference",
    "forward_difference",
    "tesla",
)
MICRO_BATCH_ENGINES = (
    "double_backward",
    "forward_over_reverse",
    "central_difference",
    "forward_difference",
)


@dataclass(frozen=True)
class Gradient:
    """Value and gradient of the terminal loss.

    Attributes:
        loss: L(theta_T).
        inputs: dL/d(input), shaped like each input; rows that no batch used are zero.
        log_step_sizes: dL/d(log beta) of each group, scalars.
        theta: theta_T, detached.
    """

    loss: float
    inputs: Rows
    log_step_sizes: dict[str, Tensor]
    theta: Theta


def mean_gradient(parts: Sequence[Gradient]) -> Gradient:
    """Return the gradient of the mean of several terminal losses with respect to the same inputs;
    `theta` is the last one's.
    """
    if len(parts) == 1:
        return parts[0]
    inputs = {name: _mean([part.inputs[name] for part in parts]) for name in parts[0].inputs}
    logs = {
        name: _mean([part.log_step_sizes[name] for part in parts])
        for name in parts[0].log_step_sizes
    }
    return Gradient(sum(part.loss for part in parts) / len(parts), inputs, logs, parts[-1].theta)


def trajectory_gradient(
    loss_fn: LossFn,
    theta0: Theta,
    inputs: Rows,
    batches: Sequence[Tensor],
    log_step_sizes: dict[str, Tensor],
    terminal: Callable[[Theta], Tensor],
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
        loss_fn: `loss_fn(theta, rows, step) -> scalar`; must give the same value when called again
            with the same arguments (seed dropout and augmentation by `step`).
        theta0: start of the student, {"img": (P_img,), "txt": (P_txt,)}.
        inputs: tensors with one row per pair, all to be differentiated: (M, ...).
        batches: T index tensors (B,) into the rows.
        log_step_sizes: log beta of each group, scalars.
        terminal: L(theta_T), a scalar.
        engine: one of `ENGINES`.
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
        ValueError: unknown engine, or options that do not go together.
    """
    constants = constants or {}
    _check(engine, {**constants, **inputs}, encode, micro_batch, is_theta_on_host)
    theta0 = {group: theta0[group].detach() for group in GROUPS}
    whole, student = WholeBatch(loss_fn, encode), None
    if (
        encode is not None
        and micro_batch is not None
        and micro_batch < max(len(batch) for batch in batches)
    ):
        student = MicroBatches(loss_fn, encode, micro_batch)
    places = [batch.to(theta0["txt"].device) for batch in batches]
    trajectory = _Trajectory(
        theta0,
        {name: value.detach() for name, value in inputs.items()},
        constants,
        places,
        log_step_sizes,
        momentum,
    )
    setting: AbstractContextManager[object] = (
        products("float32") if engine in DIFFERENCES else sdpa_kernel(SDPBackend.MATH)
    )
    with setting, torch.enable_grad():
        if engine == "unroll":
            return _unroll(whole, trajectory, terminal)
        return _reverse_sweep(student or whole, trajectory, terminal, engine, is_theta_on_host)


@dataclass(frozen=True)
class _Trajectory:
    """The student's T steps: start, rows, batches, log step sizes and momentum."""

    theta0: Theta
    inputs: Rows
    constants: Rows
    batches: list[Tensor]
    logs: dict[str, Tensor]
    momentum: float

    def batch(self, step: int, inputs: Rows | None = None) -> Batch:
        place = self.batches[step]
        return Batch(
            step,
            _take(self.inputs if inputs is None else inputs, place),
            _take(self.constants, place),
        )


def _check(
    engine: str, rows: Rows, encode: Encode | None, micro_batch: int | None, is_theta_on_host: bool
) -> None:
    if engine not in ENGINES:
        raise ValueError(
            f"unknown gradient engine {engine!r}; available: {', '.join(ENGINES)}; change "
            "`engine` of the method"
        )
    if engine == "unroll" and is_theta_on_host:
        raise ValueError(
            "the gradient engine 'unroll' keeps the graphs of all steps on the device; received "
            "is_theta_on_host true, which would change "
            f"nothing; allowed are {', '.join(ENGINES[1:])}; change `engine` or "
            "`is_theta_on_host` of the method"
        )
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
    if micro_batch is None:
        return
    if encode is None or micro_batch < 1:
        raise ValueError(
            f"micro-batches need `encode` and at least 1 image each; received {micro_batch} and "
            f"encode={encode}"
        )
    if engine not in MICRO_BATCH_ENGINES:
        raise ValueError(
            f"the gradient engine {engine!r} does not cut a step into micro-batches; allowed are "
            f"{', '.join(MICRO_BATCH_ENGINES)}; "
            "change `engine` or `micro_batch` of the method"
        )


def _unroll(
    student: WholeBatch, trajectory: _Trajectory, terminal: Callable[[Theta], Tensor]
) -> Gradient:
    inputs, logs, theta = (
        leaves(trajectory.inputs),
        leaves(trajectory.logs),
        leaves(trajectory.theta0),
    )
    velocity = _still(theta)
    for step in range(len(trajectory.batches)):
        batch = trajectory.batch(step, inputs)
        loss = student.loss(theta, batch.rows, batch)
        grads = torch.autograd.grad(
            loss, list(theta.values()), create_graph=True, materialize_grads=True
        )
        velocity = _sum(dict(zip(GROUPS, grads, strict=True)), velocity, trajectory.momentum)
        theta = {group: theta[group] - logs[group].exp() * velocity[group] for group in GROUPS}
    value = terminal(theta)
    found = torch.autograd.grad(value, [*inputs.values(), *logs.values()], materialize_grads=True)
    return Gradient(
        loss=float(value.detach()),
        inputs=dict(zip(inputs, found, strict=False)),
        log_step_sizes=dict(zip(logs, found[len(inputs) :], strict=True)),
        theta={group: theta[group].detach() for group in GROUPS},
    )


def _reverse_sweep(
    student: StudentStep,
    trajectory: _Trajectory,
    terminal: Callable[[Theta], Tensor],
    engine: str,
    is_theta_on_host: bool,
) -> Gradient:
    step_sizes = {group: trajectory.logs[group].detach().exp() for group in GROUPS}
    sweep = Sweep(student, engine, is_theta_on_host)
    theta, velocity = trajectory.theta0, _still(trajectory.theta0)
    for step in range(len(trajectory.batches)):
        velocity = _sum(sweep.forward(theta, trajectory.batch(step)), velocity, trajectory.momentum)
        theta = {group: theta[group] - step_sizes[group] * velocity[group] for group in GROUPS}
    last = leaves(theta)
    value = terminal(last)
    adjoint = torch.autograd.grad(value, list(last.values()), materialize_grads=True)
    scaled = {group: step_sizes[group] * part for group, part in zip(GROUPS, adjoint, strict=True)}

    input_grads = {name: torch.zeros_like(tensor) for name, tensor in trajectory.inputs.items()}
    log_grads, w = {group: torch.zeros_like(step_sizes[group]) for group in GROUPS}, _still(theta)
    for step in reversed(range(len(trajectory.batches))):
        w = _sum(scaled, w, trajectory.momentum)
        product = sweep.backward(trajectory.batch(step), w)
        for group in GROUPS:
            # d(beta)/d(log beta) = beta, hence w where METHOD 5 has lambda. `scaled` holds beta *
            # lambda; without momentum w is the same tensor, and has been read when it changes.
            log_grads[group] = log_grads[group] - torch.dot(w[group], product.grad[group])
            if group in product.theta:  # not with `tesla`, and not at the first step
                scaled[group].addcmul_(product.theta[group], step_sizes[group], value=-1)
        for name, row_grad in product.rows.items():
            input_grads[name].index_add_(0, trajectory.batches[step], row_grad, alpha=-1)
    return Gradient(
        float(value.detach()),
        input_grads,
        log_grads,
        {group: last[group].detach() for group in GROUPS},
    )


def _mean(tensors: list[Tensor]) -> Tensor:
    """Return the mean in the memory layout of the tensors, which a stack would lose."""
    return functools.reduce(torch.add, tensors) / len(tensors)


def _still(theta: Theta) -> Theta:
    return {group: torch.zeros_like(value) for group, value in theta.items()}


def _sum(now: Theta, past: Theta, momentum: float) -> Theta:
    """Return now + momentum * past; without momentum `now` as it is."""
    return {group: now[group] + momentum * past[group] for group in GROUPS} if momentum else now


def _take(inputs: Rows, batch: Tensor) -> Rows:
    """Rows of every input; images in the channels-last layout, in one copy where they have it
    already.
    """
    rows = {
        name: (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor)[batch]
        for name, tensor in inputs.items()
    }
    return {
        name: row.contiguous().permute(0, 3, 1, 2) if row.ndim == 4 else row
        for name, row in rows.items()
    }
