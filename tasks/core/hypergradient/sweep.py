"""Sweeps back over a student's steps (METHOD 5), for any way to differentiate one step twice.

Read the equations in `trajectory.py` first. A `Steps` object keeps the steps of the forward pass
and gives their products h. `exact_steps.py` and `differences.py` have one such class each.
`engines.py` lists the engines that they make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tasks.core.hypergradient.second_order import Tensors, each, gradient, leaves
from tasks.core.hypergradient.student_step import Batch, Product, Rows, StudentStep
from tasks.core.networks.functional import GROUPS, Theta

Terminal = Callable[[Theta], Tensor]


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


@dataclass(frozen=True)
class Trajectory:
    """The student's T steps: theta_0, rows, batches, log step sizes and momentum; see
    `trajectory_gradient`.
    """

    theta0: Theta
    inputs: Rows
    constants: Rows
    batches: list[Tensor]
    logs: dict[str, Tensor]
    momentum: float

    def batch(self, step: int, inputs: Rows | None = None) -> Batch:
        """Return the rows of a step, those of `inputs` in place of the trajectory's if given."""
        place = self.batches[step]
        rows = self.inputs if inputs is None else inputs
        return Batch(step, _take(rows, place), _take(self.constants, place))


class Steps(Protocol):
    """The steps of one student: a stack that `forward` puts on and `backward` takes from."""

    def forward(self, theta: Theta, batch: Batch) -> Theta:
        """Return g = grad_theta l(theta) and keep what `backward` needs of the step."""

    def backward(self, batch: Batch, w: Theta) -> Product:
        """Return the product along w of the step that was kept last, and forget the step.

        The first step's product has no `h_theta`: no step comes before it that would ask for one.
        """


def reverse_sweep(
    student: StudentStep,
    trajectory: Trajectory,
    terminal: Terminal,
    is_theta_on_host: bool,
    *,
    make_steps: Callable[[StudentStep, bool], Steps],
) -> Gradient:
    """Train the student, then sweep back over its steps with one step's graph alive (METHOD 5).

    Args:
        student: one step.
        is_theta_on_host: see `put_away`.
        make_steps: makes the empty stack out of `student` and `is_theta_on_host`.
    """
    # The forward pass keeps parameter vectors and records no graph across steps
    step_sizes = each(lambda log: log.detach().exp(), trajectory.logs)
    steps = make_steps(student, is_theta_on_host)
    num_steps = len(trajectory.batches)
    theta = trajectory.theta0
    velocity = each(torch.zeros_like, theta)
    for step in range(num_steps):
        grad = steps.forward(theta, trajectory.batch(step))
        velocity = add_past(grad, velocity, trajectory.momentum)
        theta = each(lambda at, beta, v: at - beta * v, theta, step_sizes, velocity)
    last = leaves(theta)
    value = terminal(last)
    # lambda of METHOD 5 is dL/d(theta_t). `scaled` holds beta * lambda, the form that w needs.
    scaled = each(torch.mul, step_sizes, gradient(value, last))

    input_grads = each(torch.zeros_like, trajectory.inputs)
    log_grads = each(torch.zeros_like, step_sizes)
    w = each(torch.zeros_like, theta)
    for step in reversed(range(num_steps)):
        # g_t enters every later velocity, so w adds up beta * lambda of all later steps
        w = add_past(scaled, w, trajectory.momentum)
        product = steps.backward(trajectory.batch(step), w)
        for group in GROUPS:
            # dL/d(log beta) = beta * dL/d(beta), and w holds the factor beta already
            log_grads[group] = log_grads[group] - torch.dot(w[group], product.grad[group])
            if group in product.h_theta:  # not with `tesla`, and not at the first step
                # lambda -= h_theta, times beta. It is safe in place: without momentum w is the
                # same tensor, and the line above was its last reader.
                scaled[group].addcmul_(product.h_theta[group], step_sizes[group], value=-1)
        # A pair that several steps use gets a share from each of them
        for name, h_row in product.h_rows.items():
            input_grads[name].index_add_(0, trajectory.batches[step], h_row, alpha=-1)
    return Gradient(float(value.detach()), input_grads, log_grads, each(torch.detach, last))


def add_past(now: Theta, past: Theta, momentum: float) -> Theta:
    """Return now + momentum * past; without momentum `now` as it is."""
    return each(lambda new, old: new + momentum * old, now, past) if momentum else now


def put_away(tensors: Tensors, *, is_on_host: bool) -> Tensors:
    """Return copies in pinned host memory, queued without waiting for the device.

    On the CPU, or without `is_on_host`, these are the same tensors: no step writes into them.
    """
    if not is_on_host or all(value.device.type == "cpu" for value in tensors.values()):
        return tensors
    # A device can copy while it computes only into pinned memory
    host = {}
    for name, value in tensors.items():
        host[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        host[name].copy_(value, non_blocking=True)
    return host


def take_back(tensors: Tensors, like: Theta) -> Tensors:
    """Return what `put_away` kept, on the device of `like`."""
    # No wait is needed: the same stream runs this after the copy that put the tensor away
    device = like["txt"].device
    return each(lambda value: value.to(device, non_blocking=True), tensors)


def _take(inputs: Rows, place: Tensor) -> Rows:
    """Return the rows of every input at `place`, images in the channels-last layout."""
    rows = {}
    for name, tensor in inputs.items():
        if tensor.ndim == 4:
            # Indexing (M, C, H, W) would give up the channels-last layout. A view of (M, H, W, C)
            # has whole rows in memory, and indexing keeps them.
            taken = tensor.permute(0, 2, 3, 1)[place].contiguous()
            rows[name] = taken.permute(0, 3, 1, 2)
        else:
            rows[name] = tensor[place]
    return rows
