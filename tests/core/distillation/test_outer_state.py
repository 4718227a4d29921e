"""The outer optimiser: each kind of tensor has its own, and what an update leads to is checked
before anything can keep it.
"""

import dataclasses

import pytest
import torch

from tasks.core.distillation.distillers import lors
from tasks.core.distillation.distillers.bi_trajectory import Config, distill
from tasks.core.distillation.matching_config import OptimiserSection
from tasks.core.distillation.outer_checkpoint import dump
from tasks.core.distillation.outer_guard import Guard
from tasks.core.distillation.outer_state import OuterState
from tasks.core.hypergradient.trajectory import Gradient
from tests.core.distillation.method_samples import LORS, Killed
from tests.core.hypergradient.small_problem import CPU, MATCHING, make_encoder, make_problem

CONFIG = Config(**MATCHING, include_positive=True)


def _guard():
    config = dataclasses.replace(
        CONFIG, optimiser="sgd", momentum=0.0, lr_img=1.5, lr_txt=1.5, lr_step_size=1.0
    )
    images, texts = torch.zeros(3, 3, 4, 4), torch.zeros(3, 5)
    return Guard(OuterState(config, 3, images, texts, {}, encoder=make_encoder(), device=CPU))


def _stored(guard):
    """The tensors of a checkpoint by part and name."""
    parts, _ = dump(guard)
    return {(part, name): value for part, named in parts.items() for name, value in named.items()}


def _gradient(*, text=0.0, log_img=0.0):
    logs = {"img": torch.tensor(log_img), "txt": torch.tensor(0.0)}
    return Gradient(
        1.0, {"images": torch.zeros(3, 3, 4, 4), "text_embeds": torch.full((3, 5), text)}, logs, {}
    )


# Each is too much for a whole step in float32 and not for half of it: 3e38 * 1.5 is infinite,
# exp(+-150 / 2) is neither 0 nor infinite.
@pytest.mark.parametrize("steps", [{"text": 3e38}, {"log_img": 150.0}, {"log_img": -150.0}])
def test_an_update_that_leaves_the_finite_numbers_is_taken_back_at_once(steps):
    guard = _guard()
    state, before = guard.state, _stored(guard)
    assert not guard.update(_gradient(**steps), {"loss": 1.0})
    assert state.iteration == 0 and state.history == []
    assert all(
        torch.equal(value, before[name]) for name, value in _stored(guard).items() if name in before
    )
    assert guard.update(_gradient(**steps), {"loss": 1.0})  # the outer steps are halved
    assert state.iteration == 1 and all(value.isfinite().all() for value in _stored(guard).values())
    assert bool(state.rows()["text_embeds"].isfinite().all())
    assert 0.0 < state.step_sizes()["img"] < float("inf")


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ({"text": -3e38}, "text_embeds"),
        ({"log_img": 400.0}, "log_img"),
        ({"log_img": -400.0}, "log_img"),
    ],
)
def test_a_second_update_that_leaves_the_finite_numbers_stops_with_what_did(steps, what):
    guard = _guard()
    guard.update(_gradient(**steps), {"loss": 1.0})
    with pytest.raises(
        ValueError,
        match=rf"after its step, not finite, or a step size of 0: {what};.*one roll-back.*lower "
        r".*lr_step_size",
    ):
        for _ in range(3):
            guard.update(_gradient(**steps), {"loss": 1.0})


def test_a_last_update_with_an_absurd_outer_step_stores_nothing(tmp_path):
    """The loss of the only iteration is finite, and its step makes a step size 0, halved too."""
    problem, file = make_problem(tmp_path), tmp_path / "c.safetensors"
    config = dataclasses.replace(
        CONFIG, iterations=1, optimiser="sgd", lr_step_size=10.0, step_size_img=5.0
    )
    with pytest.raises(
        ValueError, match=r"left the finite numbers in iteration 0.*a step size of 0: log_img"
    ):
        distill(problem, config, 6, checkpoint=file)
    assert not file.exists()
    assert (
        distill(
            problem, dataclasses.replace(config, lr_step_size=0.01), 6, checkpoint=file
        ).pairs.step_sizes["img"]
        > 0.0
    )


KINDS = ("img", "txt", "sim", "step_size")


def _learned(problem, **optimisers):
    """What one iteration makes of each kind of tensor."""
    config = dataclasses.replace(LORS, iterations=1, **optimisers)
    pairs = lors.distill(problem, config, 6).pairs
    return {
        "img": pairs.images,
        "txt": pairs.text_embeds,
        "sim": pairs.similarity.right,
        "step_size": torch.tensor(list(pairs.step_sizes.values())),
    }


@pytest.mark.parametrize("different", KINDS)
def test_each_kind_of_tensor_has_the_optimiser_that_is_asked_for(tmp_path, different):
    problem = make_problem(tmp_path, "heads")
    adam, sgd = _learned(problem, optimiser="adam"), _learned(problem, optimiser="sgd")
    kinds = dict.fromkeys(KINDS, "adam") | {different: "sgd"}
    mixed = _learned(problem, optimiser=OptimiserSection(**kinds))
    assert not torch.equal(adam[different], sgd[different])
    assert all(
        torch.equal(mixed[kind], (sgd if kind == different else adam)[kind]) for kind in KINDS
    )


def test_a_run_with_both_optimisers_goes_on_to_the_same_bytes(tmp_path):
    problem = make_problem(tmp_path, "heads")
    config = dataclasses.replace(
        LORS,
        iterations=6,
        checkpoint_every=2,
        optimiser=OptimiserSection(img="sgd", txt="adam", sim="sgd", step_size="adam"),
    )

    def kill(row, iteration):
        if iteration == 4:
            raise Killed

    expected = lors.distill(problem, config, 6)
    with pytest.raises(Killed):
        lors.distill(problem, config, 6, checkpoint=tmp_path / "c.safetensors", log=kill)
    got = lors.distill(problem, config, 6, checkpoint=tmp_path / "c.safetensors")
    assert got.history == expected.history and torch.equal(got.pairs.images, expected.pairs.images)
    assert (
        torch.equal(got.pairs.text_embeds, expected.pairs.text_embeds)
        and got.pairs.step_sizes == expected.pairs.step_sizes
    )
