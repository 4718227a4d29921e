"""Every exact engine equals a plain unrolled autograd in float64; TESLA's estimator does not."""

import pytest
import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import trajectory_gradient

STEPS, PAIRS, BATCH, D_IMG, D_TXT, D = 4, 7, 3, 5, 6, 4


def _loss(theta, rows, step):
    img = torch.tanh(rows["images"] @ theta["img"].reshape(D_IMG, D))
    txt = torch.tanh(rows["text_embeds"] @ theta["txt"].reshape(D_TXT, D))
    mask = (torch.rand(txt.shape, generator=make_generator(3, step), dtype=txt.dtype) > 0.3).to(txt)
    z = img @ (txt * mask).T / 0.5
    z = z + rows["sim_left"] @ rows["sim_right"].T * z
    return 0.5 * (torch.logsumexp(z, 0) + torch.logsumexp(z, 1) - 2 * z.diagonal()).mean()


def _problem(steps=STEPS):
    def draw(name, *shape):
        return torch.randn(*shape, generator=make_generator(0, name), dtype=torch.float64)

    theta = {"img": draw("img", D_IMG * D), "txt": draw("txt", D_TXT * D)}
    inputs = {
        "images": draw("x", PAIRS, D_IMG),
        "text_embeds": draw("y", PAIRS, D_TXT),
        "sim_left": draw("l", PAIRS, 2) * 0.3,
        "sim_right": draw("r", PAIRS, 2) * 0.3,
    }
    goal = {
        group: value + 0.1 * draw("goal" + group, *value.shape) for group, value in theta.items()
    }

    def terminal(end):
        return sum(
            (end[g] - goal[g]).square().sum() / (theta[g] - goal[g]).square().sum()
            for g in ("img", "txt")
        )

    logs = {
        "img": torch.tensor(0.3, dtype=torch.float64).log(),
        "txt": torch.tensor(0.2, dtype=torch.float64).log(),
    }
    return theta, inputs, draw_batches(PAIRS, BATCH, steps, make_generator(1)), logs, terminal


def _unrolled(theta, inputs, batches, logs, terminal, momentum, *, is_detached=False):
    theta = {g: v.clone().requires_grad_() for g, v in theta.items()}
    inputs = {n: v.clone().requires_grad_() for n, v in inputs.items()}
    logs = {g: v.clone().requires_grad_() for g, v in logs.items()}
    velocity = {"img": 0.0, "txt": 0.0}
    for step, batch in enumerate(batches):
        here = {g: v.detach().requires_grad_() for g, v in theta.items()} if is_detached else theta
        loss = _loss(here, {n: v[batch] for n, v in inputs.items()}, step)
        grads = torch.autograd.grad(loss, [here["img"], here["txt"]], create_graph=True)
        velocity = {
            g: momentum * velocity[g] + grad for g, grad in zip(("img", "txt"), grads, strict=True)
        }
        theta = {g: theta[g] - logs[g].exp() * velocity[g] for g in ("img", "txt")}
    value = terminal(theta)
    return float(value.detach()), torch.autograd.grad(value, [*inputs.values(), *logs.values()])


def _parts(found, inputs, logs):
    return [
        *(found.inputs[name] for name in inputs),
        *(found.log_step_sizes[group] for group in logs),
    ]


def _relative_error(engine, momentum, steps=STEPS):
    theta, inputs, batches, logs, terminal = _problem(steps)
    value, expected = _unrolled(theta, inputs, batches, logs, terminal, momentum)
    got = trajectory_gradient(
        _loss, theta, inputs, batches, logs, terminal, engine=engine, momentum=momentum
    )
    assert got.loss == pytest.approx(value, rel=1e-12)
    received, expected = (
        torch.cat([part.reshape(-1) for part in parts])
        for parts in (_parts(got, inputs, logs), expected)
    )
    return float((received - expected).norm() / expected.norm())


@pytest.mark.parametrize(("momentum", "steps"), [(0.0, STEPS), (0.9, STEPS), (0.0, 1)])
@pytest.mark.parametrize(
    ("engine", "bound"),
    [
        ("unroll", 1e-9),
        ("double_backward", 1e-9),
        ("forward_over_reverse", 1e-9),
        ("central_difference", 1e-5),
    ],
)
def test_exact_engines_equal_unrolled_autograd(engine, bound, momentum, steps):
    assert _relative_error(engine, momentum, steps) <= bound


@pytest.mark.parametrize(
    ("engine", "bound"),
    [("double_backward", 1e-9), ("central_difference", 1e-5), ("forward_difference", 1e-4)],
)
def test_rows_may_all_be_constant(engine, bound):
    theta, rows, batches, logs, terminal = _problem()
    expected, found = (
        trajectory_gradient(
            _loss, theta, {}, batches, logs, terminal, engine=name, constants=rows
        ).log_step_sizes
        for name in ("unroll", engine)
    )
    assert all(
        float((found[g] - expected[g]).abs()) <= bound * float(expected[g].abs()) for g in found
    )


def test_a_student_with_momentum_ends_where_torchs_sgd_does():
    theta, inputs, batches, logs, terminal = _problem()
    found = trajectory_gradient(
        _loss, theta, inputs, batches, logs, terminal, engine="double_backward", momentum=0.9
    )
    student = {group: value.clone().requires_grad_() for group, value in theta.items()}
    sgd = torch.optim.SGD(
        [{"params": [student[group]], "lr": float(log.exp())} for group, log in logs.items()],
        momentum=0.9,
    )
    for step, batch in enumerate(batches):
        sgd.zero_grad()
        _loss(student, {name: rows[batch] for name, rows in inputs.items()}, step).backward()
        sgd.step()
    for group, value in student.items():
        torch.testing.assert_close(found.theta[group], value.detach(), rtol=1e-12, atol=1e-14)


def test_tesla_is_biased():
    assert _relative_error("tesla", 0.0) > 1e-3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_tesla_is_autograd_through_the_steps_with_each_step_at_a_detached_theta(momentum):
    """theta_T = theta_0 - sum_t beta v_t, where g_t depends on the pairs and not on the steps
    before.
    """
    theta, inputs, batches, logs, terminal = _problem()
    value, expected = _unrolled(theta, inputs, batches, logs, terminal, momentum, is_detached=True)
    found = trajectory_gradient(
        _loss, theta, inputs, batches, logs, terminal, engine="tesla", momentum=momentum
    )
    assert found.loss == pytest.approx(value, rel=1e-12)
    for one, other in zip(_parts(found, inputs, logs), expected, strict=True):
        assert float((one - other).norm()) <= 1e-12 * float(other.norm())


def test_parameters_on_the_host_are_refused_where_all_graphs_stay_on_the_device():
    theta, inputs, batches, logs, terminal = _problem()
    with pytest.raises(
        ValueError,
        match=r"trajectory_gradient: the engine 'unroll' keeps the graphs.*received "
        r"is_theta_on_host true.*allowed are double_backward, ",
    ):
        trajectory_gradient(
            _loss, theta, inputs, batches, logs, terminal, engine="unroll", is_theta_on_host=True
        )


def test_every_pair_is_drawn_once_before_any_twice():
    drawn = torch.cat(draw_batches(PAIRS, BATCH, 7, make_generator(2)))
    assert sorted(drawn[:PAIRS].tolist()) == list(range(PAIRS))
