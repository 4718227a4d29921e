"""The trajectory-matching loss and its gradient with respect to the synthetic pairs, in constant memory.

METHOD 5. T student steps theta_{t+1} = theta_t - beta * g_t, with g_t = grad_theta l(theta_t; rows of batch t), end in
L(theta_T). The reverse sweep keeps one step's graph alive and needs, per step, the second-order products
h = d/d(theta, rows) <g_t, w>, w = beta * lambda; the engines differ in how they get h:

* `unroll`: plain autograd through all steps; exact, memory grows with T. The oracle of the tests.
* `double_backward`: reverse over reverse; exact.
* `forward_over_reverse`: derivative of the gradients along w; exact.
* `central_difference`: two more gradients at theta +- eps w; error O(eps^2) plus rounding, no second derivative.
* `tesla`: drops lambda -= h_theta (arXiv 2211.10586); a biased gradient, kept for comparison.

The exact engines run attention with the math kernel: the fused ones have no second derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tasks.core.functional import GROUPS, Theta

ENGINES = ("unroll", "double_backward", "forward_over_reverse", "central_difference", "tesla")

Rows = dict[str, Tensor]
LossFn = Callable[[Theta, Rows, int], Tensor]

# |eps w| / |theta|: balances truncation, O(eps^2), against rounding, O(1 / eps), for each precision.
_RELATIVE_EPS = {torch.float64: 1e-5}
_RELATIVE_EPS_DEFAULT = 1e-4


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
class _Product:
    """g = grad_theta l at one step, and h = d<g, w>/d(theta, rows)."""

    grad: Theta
    theta: Theta
    rows: Rows


def trajectory_gradient(
    loss_fn: LossFn,
    theta0: Theta,
    inputs: Rows,
    batches: Sequence[Tensor],
    log_step_sizes: dict[str, Tensor],
    terminal: Callable[[Theta], Tensor],
    *,
    engine: str,
) -> Gradient:
    """Train T steps on the synthetic pairs and differentiate the terminal loss (METHOD 5).

    Args:
        loss_fn: `loss_fn(theta, rows, step) -> scalar`; must give the same value when called again with the same
            arguments (seed dropout and augmentation by `step`).
        theta0: start of the student, {"img": (P_img,), "txt": (P_txt,)}.
        inputs: tensors with one row per pair, all to be differentiated: (M, ...).
        batches: T index tensors (B,) into the rows.
        log_step_sizes: log beta of each group, scalars.
        terminal: L(theta_T), a scalar.
        engine: one of `ENGINES`.

    Returns:
        The `Gradient`; nothing is modified in place.

    Raises:
        ValueError: unknown engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown gradient engine {engine!r}; available: {', '.join(ENGINES)}; change `engine` of the method")
    theta0 = {group: theta0[group].detach() for group in GROUPS}
    inputs = {name: value.detach() for name, value in inputs.items()}
    step_sizes = {group: log_step_sizes[group].detach().exp() for group in GROUPS}
    kernel: AbstractContextManager[object] = nullcontext()
    if engine != "central_difference":
        kernel = sdpa_kernel(SDPBackend.MATH)
    with kernel, torch.enable_grad():
        if engine == "unroll":
            return _unroll(loss_fn, theta0, inputs, batches, log_step_sizes, terminal)
        return _reverse_sweep(loss_fn, theta0, inputs, batches, step_sizes, terminal, engine)


def matching_loss(theta: Theta, start: Theta, target: Theta, *, merge_branches: bool = False) -> Tensor:
    """Return sum over groups of |theta - target|^2 / |start - target|^2 (METHOD 4), a scalar.

    Args:
        theta, start, target: end of the student, start and end of the expert's segment. Empty groups count nothing.
        merge_branches: (num_img + num_txt) / (den_img + den_txt) instead (LoRS on COCO).

    Raises:
        ValueError: the expert did not move in a group, so that the ratio has no meaning.
    """
    groups = [group for group in GROUPS if theta[group].numel() > 0]
    numerators = [(theta[group] - target[group]).square().sum() for group in groups]
    denominators = [(start[group] - target[group]).square().sum() for group in groups]
    if merge_branches:
        numerators, denominators = [torch.stack(numerators).sum()], [torch.stack(denominators).sum()]
    still = [group for group, value in zip(groups, denominators, strict=False) if not bool(value > 0)]
    if still:
        raise ValueError(
            f"the expert's parameters do not move, or are not finite, between start and target in {', '.join(still)}; "
            "allowed are segments with a positive finite length; check lr_img and lr_txt of train_experts"
        )
    return torch.stack([num / den for num, den in zip(numerators, denominators, strict=True)]).sum()


def draw_batches(num_pairs: int, batch_size: int, num_steps: int, generator: torch.Generator) -> list[Tensor]:
    """Return `num_steps` index tensors (batch_size,): every pair once before any twice, no pair twice in one batch.

    Raises:
        ValueError: the batch is larger than the set.
    """
    if not 1 <= batch_size <= num_pairs:
        raise ValueError(
            f"a mini-batch of {batch_size} pairs cannot be drawn from {num_pairs} pairs; allowed is 1 to {num_pairs}; "
            "change mini_batch_size or the number of pairs"
        )
    device = generator.device
    pool = torch.empty(0, dtype=torch.long, device=device)
    batches = []
    for _ in range(num_steps):
        if len(pool) < batch_size:
            fresh = torch.randperm(num_pairs, generator=generator, device=device)
            # A batch that crosses into the next pass takes first those that it does not hold already.
            is_held = torch.isin(fresh, pool)
            pool = torch.cat([pool, fresh[~is_held], fresh[is_held]])
        batches.append(pool[:batch_size])
        pool = pool[batch_size:]
    return batches


def _unroll(
    loss_fn: LossFn,
    theta0: Theta,
    inputs: Rows,
    batches: Sequence[Tensor],
    log_step_sizes: dict[str, Tensor],
    terminal: Callable[[Theta], Tensor],
) -> Gradient:
    inputs = _leaves(inputs)
    logs = _leaves(log_step_sizes)
    theta = _leaves(theta0)
    for step, batch in enumerate(batches):
        loss = loss_fn(theta, _take(inputs, batch), step)
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True, materialize_grads=True)
        theta = {group: theta[group] - logs[group].exp() * grad for group, grad in zip(GROUPS, grads, strict=True)}
    value = terminal(theta)
    leaves = [*inputs.values(), *logs.values()]
    found = torch.autograd.grad(value, leaves, materialize_grads=True)
    return Gradient(
        loss=float(value.detach()),
        inputs=dict(zip(inputs, found, strict=False)),
        log_step_sizes=dict(zip(logs, found[len(inputs) :], strict=True)),
        theta={group: theta[group].detach() for group in GROUPS},
    )


def _reverse_sweep(
    loss_fn: LossFn,
    theta0: Theta,
    inputs: Rows,
    batches: Sequence[Tensor],
    step_sizes: dict[str, Tensor],
    terminal: Callable[[Theta], Tensor],
    engine: str,
) -> Gradient:
    thetas = [theta0]
    for step, batch in enumerate(batches):
        grad, _ = _first_order(loss_fn, thetas[-1], _take(inputs, batch), step, with_rows=False)
        thetas.append({group: thetas[-1][group] - step_sizes[group] * grad[group] for group in GROUPS})
    last = _leaves(thetas.pop())
    value = terminal(last)
    adjoint = dict(zip(GROUPS, torch.autograd.grad(value, list(last.values()), materialize_grads=True), strict=True))

    input_grads = {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}
    log_grads = {group: torch.zeros_like(step_sizes[group]) for group in GROUPS}
    for step in reversed(range(len(batches))):
        w = {group: step_sizes[group] * adjoint[group] for group in GROUPS}
        product = _second_order(loss_fn, thetas.pop(), _take(inputs, batches[step]), step, w, engine)
        for group in GROUPS:
            # d(beta)/d(log beta) = beta, hence w where METHOD 5 has lambda.
            log_grads[group] = log_grads[group] - torch.dot(w[group], product.grad[group])
            if engine != "tesla":
                adjoint[group] = adjoint[group] - product.theta[group]
        for name, row_grad in product.rows.items():
            input_grads[name].index_add_(0, batches[step].to(row_grad.device), row_grad, alpha=-1)
    theta_end = {group: last[group].detach() for group in GROUPS}
    return Gradient(float(value.detach()), input_grads, log_grads, theta_end)


def _second_order(loss_fn: LossFn, theta: Theta, rows: Rows, step: int, w: Theta, engine: str) -> _Product:
    if engine == "forward_over_reverse":
        return _forward_over_reverse(loss_fn, theta, rows, step, w)
    if engine == "central_difference":
        return _central_difference(loss_fn, theta, rows, step, w)
    return _double_backward(loss_fn, theta, rows, step, w, with_theta=engine != "tesla")


def _double_backward(loss_fn: LossFn, theta: Theta, rows: Rows, step: int, w: Theta, *, with_theta: bool) -> _Product:
    theta, rows = _leaves(theta), _leaves(rows)
    loss = loss_fn(theta, rows, step)
    grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True, materialize_grads=True)
    grad = dict(zip(GROUPS, grads, strict=True))
    inner = torch.stack([torch.dot(grad[group], w[group]) for group in GROUPS]).sum()
    leaves = [*rows.values(), *(theta.values() if with_theta else ())]
    if inner.requires_grad:
        found = torch.autograd.grad(inner, leaves, materialize_grads=True)
    else:
        found = tuple(torch.zeros_like(leaf) for leaf in leaves)
    return _Product(
        grad={group: value.detach() for group, value in grad.items()},
        theta=dict(zip(GROUPS, found[len(rows) :], strict=False)),
        rows=dict(zip(rows, found, strict=False)),
    )


def _forward_over_reverse(loss_fn: LossFn, theta: Theta, rows: Rows, step: int, w: Theta) -> _Product:
    # d<g, w>/d(rows) is the change of grad_rows l along w: second derivatives commute.
    def gradients(at: Theta) -> tuple[Theta, Rows]:
        found: tuple[Theta, Rows] = torch.func.grad(lambda th, rs: loss_fn(th, rs, step), argnums=(0, 1))(at, rows)
        return found

    primal, tangent = torch.func.jvp(gradients, (theta,), (w,))  # type: ignore[misc] # without aux it returns two
    (grad, _), (h_theta, h_rows) = primal, tangent
    return _Product(grad, h_theta, h_rows)


def _central_difference(loss_fn: LossFn, theta: Theta, rows: Rows, step: int, w: Theta) -> _Product:
    norm_w, norm_theta = _norm(w), _norm(theta)
    scale = _RELATIVE_EPS.get(theta["txt"].dtype, _RELATIVE_EPS_DEFAULT) * torch.where(norm_theta > 0, norm_theta, 1.0)
    eps = scale / torch.where(norm_w > 0, norm_w, 1.0)
    sides = []
    for sign in (1.0, -1.0):
        shifted = {group: theta[group] + sign * eps * w[group] for group in GROUPS}
        sides.append(_first_order(loss_fn, shifted, rows, step, with_rows=True))
    (grad_plus, rows_plus), (grad_minus, rows_minus) = sides
    return _Product(
        # The mean of both sides is g_t to O(eps^2): the step size's gradient needs no third pass.
        grad={group: (grad_plus[group] + grad_minus[group]) / 2 for group in GROUPS},
        theta={group: (grad_plus[group] - grad_minus[group]) / (2 * eps) for group in GROUPS},
        rows={name: (rows_plus[name] - rows_minus[name]) / (2 * eps) for name in rows},
    )


def _first_order(loss_fn: LossFn, theta: Theta, rows: Rows, step: int, *, with_rows: bool) -> tuple[Theta, Rows]:
    theta = _leaves(theta)
    rows = _leaves(rows) if with_rows else rows
    leaves = [*theta.values(), *(rows.values() if with_rows else ())]
    found = torch.autograd.grad(loss_fn(theta, rows, step), leaves, materialize_grads=True)
    return dict(zip(GROUPS, found, strict=False)), dict(zip(rows, found[len(GROUPS) :], strict=False))


def _leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


def _take(inputs: Rows, batch: Tensor) -> Rows:
    """Rows of every input; images keep the channels-last layout, which indexing alone does not promise."""
    rows = {name: tensor[batch.to(tensor.device)] for name, tensor in inputs.items()}
    return {name: row.contiguous(memory_format=torch.channels_last) if row.ndim == 4 else row for name, row in rows.items()}


def _norm(theta: Theta) -> Tensor:
    return torch.stack([theta[group].square().sum() for group in GROUPS]).sum().sqrt()
