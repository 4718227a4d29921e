"""Computes the gradient by plain autograd through all steps. It is exact, and its memory grows with
the number of steps.

It is the oracle of the tests. It is also the shortest statement of what the other engines compute.
"""

from __future__ import annotations

import torch

from tasks.core.hypergradient.second_order import each, gradient, leaves
from tasks.core.hypergradient.student_step import StudentStep, split
from tasks.core.hypergradient.sweep import Gradient, Terminal, Trajectory, add_past


def unroll(
    student: StudentStep, trajectory: Trajectory, terminal: Terminal, is_theta_on_host: bool
) -> Gradient:
    """Return the gradient of the terminal loss; the graphs of all steps stay on the device.

    `engines.py` refuses micro-batches and parameter vectors on the host for it, so
    `is_theta_on_host` is false.
    """
    inputs, logs = leaves(trajectory.inputs), leaves(trajectory.logs)
    theta = leaves(trajectory.theta0)
    velocity = each(torch.zeros_like, theta)
    for step in range(len(trajectory.batches)):
        batch = trajectory.batch(step, inputs)
        loss = student.loss(theta, batch.rows, batch)
        # The graph of g_t is what makes the second derivatives of METHOD 5
        grad = gradient(loss, theta, create_graph=True)
        velocity = add_past(grad, velocity, trajectory.momentum)
        theta = each(lambda at, log, v: at - log.exp() * v, theta, logs, velocity)
    value = terminal(theta)
    # Step sizes are named like parameter groups, so `split` returns them as the first part
    log_step_sizes, input_grads = split(gradient(value, {**inputs, **logs}))
    return Gradient(float(value.detach()), input_grads, log_step_sizes, each(torch.detach, theta))
