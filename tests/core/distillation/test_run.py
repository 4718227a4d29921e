"""The loop lowers the matching loss, resumes to the same bytes, obeys its ablations, and never goes
on with NaN.
"""

import dataclasses

import pytest
import torch

from tasks.core.distillation.distillers.bi_trajectory import Config, distill
from tasks.core.distillation.matching_config import check_matching
from tests.core.hypergradient.small_problem import MATCHING, make_problem

CONFIG = Config(**MATCHING, include_positive=True)


def _run(problem, checkpoint=None, log=None, **changes):
    return distill(
        problem, dataclasses.replace(CONFIG, **changes), 6, checkpoint=checkpoint, log=log
    )


class Killed(Exception):
    pass


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_the_matching_loss_falls(tmp_path, trainable):
    history = _run(make_problem(tmp_path, trainable), iterations=60).history
    losses = [row["loss"] for row in history]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(
        row["loss"] == pytest.approx(row["loss_img"] + row["loss_txt"], rel=1e-5) for row in history
    )


@pytest.mark.parametrize(("optimiser", "goals"), [("adam", 1), ("sgd", 1), ("adam", 2), ("sgd", 2)])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, optimiser, goals):
    problem, change = make_problem(tmp_path), {"optimiser": optimiser, "goals_per_iteration": goals}

    def kill(row, iteration):
        if iteration == 8:
            raise Killed

    expected = _run(problem, **change)
    with pytest.raises(Killed):
        _run(problem, tmp_path / "c.safetensors", kill, **change)
    iterations = []
    got = _run(
        problem,
        tmp_path / "c.safetensors",
        lambda row, iteration: iterations.append(iteration),
        **change,
    )
    assert iterations == list(range(5, 12))
    assert torch.equal(got.pairs.images, expected.pairs.images) and torch.equal(
        got.pairs.text_embeds, expected.pairs.text_embeds
    )
    assert got.history == expected.history and got.pairs.step_sizes == expected.pairs.step_sizes


@pytest.mark.parametrize(
    ("optimise", "image_moves", "text_moves"),
    [("both", True, True), ("image", True, False), ("text", False, True)],
)
def test_single_modality_leaves_the_other_as_it_was(tmp_path, optimise, image_moves, text_moves):
    found = _run(make_problem(tmp_path, "heads"), optimise=optimise)
    assert torch.equal(found.pairs.images, found.initial.images) != image_moves
    assert torch.equal(found.pairs.text_embeds, found.initial.text_embeds) != text_moves


def test_noise_has_the_moments_of_the_data(tmp_path):
    problem = make_problem(tmp_path)
    noise, real = (
        _run(problem, init_image="noise", init_text="noise").initial,
        _run(problem).initial,
    )
    assert torch.equal(noise.image_idx, real.image_idx) and not torch.equal(
        noise.images, real.images
    )
    every = torch.from_numpy(problem.train.images).float() / 127.5 - 1
    assert noise.images.mean((0, 2, 3)) == pytest.approx(every.mean((0, 1, 2)), abs=0.15)
    assert noise.images.std((0, 2, 3)) == pytest.approx(every.std((0, 1, 2)), rel=0.2)


def test_frozen_features_give_the_gradient_of_the_whole_network(tmp_path):
    """One iteration of plain SGD with the encoder inside the student equals the detour over
    features.
    """
    problem = make_problem(tmp_path, "heads")
    slow = dataclasses.replace(problem, is_encoder_frozen=False)
    change = {"iterations": 1, "optimiser": "sgd", "engine": "double_backward"}
    fast_set, slow_set = _run(problem, **change).pairs, _run(slow, **change).pairs
    moved = fast_set.images - _run(problem, **change).initial.images
    assert float(moved.abs().max()) > 0
    assert torch.allclose(
        fast_set.images, slow_set.images, atol=1e-6 * float(moved.abs().max()) + 1e-7
    )


def test_nan_rolls_back_once_and_then_stops_with_a_diagnosis(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"left the finite numbers in iteration \d+.*last finite values.*one "
        r"roll-back.*lr_img",
    ):
        _run(make_problem(tmp_path), optimiser="sgd", lr_img=1e30, lr_txt=1e30)


def test_options_that_cannot_work_are_refused():
    with pytest.raises(
        ValueError,
        match=r"max_start_epoch 2 and expert_epochs 3 need experts of 4 epochs.*num_epochs is 3",
    ):
        check_matching(
            dataclasses.replace(CONFIG, expert_epochs=3), 3, (20,), trainable="full", where="here"
        )
    with pytest.raises(ValueError, match=r"here\.lr_img: received \{100: 5\.0\} for 20 pairs"):
        check_matching(
            dataclasses.replace(CONFIG, lr_img={100: 5.0}),
            3,
            (100, 20),
            trainable="full",
            where="here",
        )
