"""Options of the outer loop: decay, start epochs, goals, memory; a resumed run heals as an
uninterrupted one.
"""

import dataclasses

import pytest
import torch

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.distillers.bi_trajectory import Config, distill
from tasks.core.distillation.matching_config import check_matching
from tasks.core.distillation.objective import Objective
from tasks.core.distillation.run import run
from tasks.core.distillation.segments import draw_snapshot, segment_goals
from tasks.core.foundations.seeding import make_generator
from tasks.core.training.experts import save_snapshots
from tasks.core.training.losses import info_nce
from tests.core.distillation.method_samples import Killed
from tests.core.hypergradient.small_problem import CPU, MATCHING, make_problem

CONFIG = Config(**MATCHING, include_positive=True)


def _segment(problem, config, *names):
    return segment_goals(problem.flat, problem.buffer, config)(0, make_generator(0, *names))


def _run(problem, **changes):
    return distill(problem, dataclasses.replace(CONFIG, **changes), 6)


def test_outer_steps_fall_along_half_a_cosine(tmp_path):
    """With a still gradient SGD moves by lr * factor; here the first two of four iterations,
    factors 1 and (1 + cos 45) / 2.
    """
    assert [
        round(dataclasses.replace(CONFIG, iterations=4, lr_decay="cosine").outer_decay(index), 4)
        for index in (0, 1, 2, 4)
    ] == [
        1.0,
        0.8536,
        0.5,
        0.0,
    ]
    problem = make_problem(tmp_path, "heads")
    sgd = {"optimiser": "sgd", "momentum": 0.0, "lr_img": 5.0}
    first = _run(problem, iterations=1, **sgd)
    plain = _run(problem, iterations=2, **sgd).pairs.images - first.pairs.images
    decayed = (
        _run(problem, iterations=2, lr_decay="cosine", **sgd).pairs.images - first.pairs.images
    )
    assert torch.allclose(decayed, 0.5 * plain, rtol=1e-4, atol=1e-7)


def test_start_epochs_are_drawn_from_their_whole_range_for_both_groups_alike(tmp_path):
    problem = make_problem(tmp_path, "heads")
    buffer = problem.buffer
    config = dataclasses.replace(CONFIG, max_start_epoch=3)
    drawn = [draw_snapshot(buffer, config, make_generator(0, index)) for index in range(60)]
    assert set(drawn) == {(expert, epoch) for expert in (0, 1) for epoch in (0, 1, 2)}
    expert, epoch = drawn[0]
    goal = _segment(problem, config, 0)
    for group in ("img", "txt"):
        assert torch.equal(goal.theta0[group], buffer.snapshot(expert, epoch)[group])
    assert float(goal.loss(buffer.snapshot(expert, epoch + 1))) == 0.0
    assert goal.terms(goal.theta0) == pytest.approx({"loss_img": 1.0, "loss_txt": 1.0})


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_micro_batches_and_parameters_on_the_host_change_no_number(tmp_path, trainable):
    problem = make_problem(tmp_path, trainable)
    change = {"iterations": 2, "optimiser": "sgd", "engine": "double_backward"}
    whole, parts = (
        _run(problem, **change, micro_batch=size, is_theta_on_host=size is not None).pairs
        for size in (None, 3)
    )
    assert torch.allclose(whole.images, parts.images, atol=1e-6) and torch.allclose(
        whole.text_embeds, parts.text_embeds, atol=1e-6
    )


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_an_update_averages_the_gradients_of_its_goals(tmp_path, trainable):
    """One step of SGD with two goals moves the set by the mean of the steps with each; the batch is
    the whole set, without dropout.
    """
    problem = make_problem(tmp_path, trainable)
    config = dataclasses.replace(
        CONFIG,
        iterations=1,
        optimiser="sgd",
        mini_batch_size=6,
        is_dropout_on=False,
        engine="double_backward",
    )

    def moved(*segments):
        goals = iter([_segment(problem, config, index) for index in segments])
        objective = Objective(
            lambda img, txt, rows: info_nce(img, txt), goal=lambda iteration, draw: next(goals)
        )
        found = run(
            problem, dataclasses.replace(config, goals_per_iteration=len(segments)), 6, objective
        )
        return (
            found.pairs.images - found.initial.images,
            found.pairs.text_embeds - found.initial.text_embeds,
            found.history[0],
        )

    first, second, both = moved(0), moved(1), moved(0, 1)
    for one, other, mean in zip(first[:2], second[:2], both[:2], strict=True):
        assert not torch.allclose(one, other, rtol=0.01)
        assert torch.allclose(mean, (one + other) / 2, rtol=1e-3, atol=1e-6)
    for name in ("loss", "loss_img", "loss_txt"):
        assert both[2][name] == pytest.approx((first[2][name] + second[2][name]) / 2, rel=1e-5)


def test_goals_of_one_iteration_draw_batches_and_dropout_of_their_own(tmp_path):
    """The same segment twice: the second goal must not repeat the first one's batches and masks."""
    problem = make_problem(tmp_path, "heads")
    segment = _segment(problem, CONFIG)
    objective = Objective(
        lambda img, txt, rows: info_nce(img, txt), goal=lambda iteration, draw: segment
    )
    for change in ({"is_dropout_on": False}, {"mini_batch_size": 6}):
        config = dataclasses.replace(CONFIG, iterations=1, **change)
        one, two = (
            run(
                problem, dataclasses.replace(config, goals_per_iteration=count), 6, objective
            ).history[0]
            for count in (1, 2)
        )
        assert one["loss"] != pytest.approx(two["loss"], rel=1e-6)
    alone = [
        run(problem, dataclasses.replace(CONFIG, iterations=1), 6, objective).history[0]
        for _ in range(2)
    ]
    assert alone[0] == alone[1]


class Faulty:
    """The goal of bi-trajectory matching, whose loss is NaN once, in iteration 5; or that is killed
    there.
    """

    def __init__(self, problem, config, is_killed):
        self.problem, self.config, self.is_killed, self.is_done = problem, config, is_killed, False

    def __call__(self, iteration, draw):
        goal = segment_goals(self.problem.flat, self.problem.buffer, self.config)(iteration, draw)
        if iteration != 5 or self.is_done:
            return goal
        self.is_done = True
        if self.is_killed:
            raise Killed
        return dataclasses.replace(goal, loss=lambda theta: goal.loss(theta) * float("nan"))


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_non_finite_iteration_right_after_a_resume_heals_as_without_the_interruption(
    tmp_path, optimiser
):
    problem = make_problem(tmp_path, "heads")
    config = dataclasses.replace(CONFIG, optimiser=optimiser, iterations=8)

    def distil(is_killed=False, checkpoint=None):
        objective = Objective(
            lambda img, txt, rows: info_nce(img, txt), goal=Faulty(problem, config, is_killed)
        )
        return run(problem, config, 6, objective, checkpoint=checkpoint)

    expected = distil()
    with pytest.raises(Killed):
        distil(is_killed=True, checkpoint=tmp_path / "c.safetensors")
    got = distil(checkpoint=tmp_path / "c.safetensors")
    assert torch.equal(got.pairs.images, expected.pairs.images) and torch.equal(
        got.pairs.text_embeds, expected.pairs.text_embeds
    )
    assert (
        got.history == expected.history
        and len(got.history) == 8
        and got.pairs.step_sizes == expected.pairs.step_sizes
    )


def test_merged_branches_go_on_where_the_texts_of_the_experts_stand_still(tmp_path):
    problem = make_problem(tmp_path, "heads")
    texts = problem.buffer.snapshot(0, 0)["txt"]
    still = {
        f"{g}_{e:03d}": texts.clone() if g == "txt" else problem.buffer.snapshot(0, e)["img"]
        for g in ("img", "txt")
        for e in range(3)
    }
    save_snapshots(tmp_path, still, storage="float32", shared={})
    found = _run(
        dataclasses.replace(problem, buffer=Buffer([tmp_path], {}, device=CPU)),
        iterations=3,
        merge_branches=True,
    )
    assert len(found.history) == 3 and all(
        row["loss_txt"] == 0.0 < row["loss_img"] for row in found.history
    )


def test_options_that_contradict_each_other_are_refused():
    cut = dataclasses.replace(CONFIG, engine="tesla", micro_batch=8)
    with pytest.raises(
        ValueError, match=r"here: the engine 'tesla' does not cut a step.*received micro_batch 8"
    ):
        check_matching(cut, 3, (6,), trainable="full", where="here")
    check_matching(cut, 3, (6,), trainable="heads", where="here")
    with pytest.raises(
        ValueError,
        match=r"here: the engine 'unroll' keeps the graphs.*received is_theta_on_host true.*"
        r"allowed are double_backward, .*change `engine` or set `is_theta_on_host: false`",
    ):
        check_matching(
            dataclasses.replace(CONFIG, is_theta_on_host=True, engine="unroll"),
            3,
            (6,),
            trainable="heads",
            where="here",
        )
    with pytest.raises(ValueError, match=r"here\.mini_batch_size: received \{5: 3\} for 6 pairs"):
        check_matching(
            dataclasses.replace(CONFIG, mini_batch_size={5: 3}),
            3,
            (6,),
            trainable="full",
            where="here",
        )
