"""The gradient by plain autograd through all steps: exact, and its memory grows with their number.

The oracle of the tests, and the shortest statement of what the other engines compute.
"""

from __future__ import annotations

import torch

from tasks.core.hypergradient.second_order import leaves
from tasks.core.hypergradient.student_step import StudentStep
from tasks.core.hypergradient.sweep import Gradient, Terminal, Trajectory, add_past, still
from tasks.core.networks.functional import GROUPS


def unroll(
    student: StudentStep, trajectory: Trajectory, terminal: Terminal, is_theta_on_host: bool
) -> Gradient:
    """Return the gradient of the terminal loss; all steps' graphs stay on the device.

    `engines.py` lets it cut no step and keep nothing on the host.
    """
    inputs, logs = leaves(trajectory.inputs), leaves(trajectory.logs)
    theta = leaves(trajectory.theta0)
    velocity = still(theta)
    for step in range(len(trajectory.batches)):
        batch = trajectory.batch(step, inputs)
        loss = student.loss(theta, batch.rows, batch)
        grads = torch.autograd.grad(
            loss, list(theta.values()), create_graph=True, materialize_grads=True
        )
        velocity = add_past(dict(zip(GROUPS, grads, strict=True)), velocity, trajectory.momentum)
        theta = {group: theta[group] - logs[group].exp() * velocity[group] for group in GROUPS}
    value = terminal(theta)
    found = torch.autograd.grad(value, [*inputs.values(), *logs.values()], materialize_grads=True)
    return Gradient(
        loss=float(value.detach()),
        inputs=dict(zip(inputs, found, strict=False)),
        log_step_sizes=dict(zip(logs, found[len(inputs) :], strict=True)),
        theta={group: theta[group].detach() for group in GROUPS},
    )
