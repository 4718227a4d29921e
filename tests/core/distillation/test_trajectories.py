"""Where students start and what they follow: joint or own epochs, phases, straight trajectories."""

import dataclasses

import pytest
import torch

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.displacements import displacements, start_ranges
from tasks.core.distillation.distillers import bi_trajectory, lors, repblend
from tasks.core.distillation.matching_config import check_matching
from tasks.core.distillation.segments import draw_snapshot, segment_goals
from tasks.core.distillation.trajectories import Trajectories
from tasks.core.foundations.seeding import make_generator
from tasks.core.training.experts import save_snapshots
from tests.core.distillation.method_samples import LORS, REPBLEND, Killed, mean_loss, run_method
from tests.core.hypergradient.small_problem import CPU, MATCHING, make_problem

CONFIG = bi_trajectory.Config(**MATCHING, include_positive=True)
AMD = {"starts": "independent", "distance": "norm", "init_image": "k_means", "init_text": "k_means"}
PTM_ST = {"num_phases": 2, "convex_epochs": 3}


def _trajectories(problem, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return Trajectories(problem.flat, problem.buffer, config)


def test_joint_starts_are_those_of_snapshots_and_read_what_is_stored(tmp_path):
    problem = make_problem(tmp_path, "heads")
    trajectories = _trajectories(problem, max_start_epoch=3)
    config = dataclasses.replace(CONFIG, max_start_epoch=3)
    for index in range(20):
        expert, epochs = trajectories.draw_start(index % 12, make_generator(0, index))
        drawn = draw_snapshot(problem.buffer, config, make_generator(0, index))
        assert (expert, epochs["img"]) == drawn and epochs["img"] == epochs["txt"]
        stored = problem.buffer.snapshot(*drawn)
        assert trajectories.at(index % 12, expert, epochs) is stored


def test_independent_starts_fill_the_range_of_each_group_and_no_more(tmp_path):
    problem = make_problem(tmp_path, "heads")
    trajectories = _trajectories(problem, max_start_epoch=3, starts="independent")
    seen = {(expert, group): set() for expert in (0, 1) for group in ("img", "txt")}
    pairs = set()
    for index in range(200):
        expert, epochs = trajectories.draw_start(0, make_generator(0, index))
        pairs.add((epochs["img"], epochs["txt"]))
        for group, epoch in epochs.items():
            seen[expert, group].add(epoch)
        theta = trajectories.at(0, expert, epochs)
        for group, epoch in epochs.items():
            assert torch.equal(theta[group], problem.buffer.snapshot(expert, epoch)[group])
    for (expert, group), epochs in seen.items():
        ranges = start_ranges(displacements(problem.flat, problem.buffer, expert, 3))
        assert epochs == set(range(min(2, ranges[group]) + 1))
    assert any(img != txt for img, txt in pairs)


def test_start_epochs_grow_from_phase_to_phase(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {"iterations": 10, "max_start_epoch": 3, "num_phases": 2}
    trajectories = _trajectories(problem, **change)
    config = dataclasses.replace(CONFIG, **change)
    for iteration in range(10):
        last = 1 if iteration < 5 else 2
        assert config.last_start(iteration) == last
        drawn = set()
        for index in range(40):
            drawn.add(trajectories.draw_start(iteration, make_generator(0, index))[1]["img"])
        assert drawn == set(range(last + 1))
    plain = dataclasses.replace(config, num_phases=1)
    assert {plain.last_start(iteration) for iteration in range(10)} == {2.0}


def test_a_straight_trajectory_starts_anywhere_and_ends_where_its_phase_does(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {"iterations": 10, "max_start_epoch": 2, "num_phases": 2, "convex_epochs": 3}
    trajectories = _trajectories(problem, **change)
    starts = []
    for index in range(50):
        starts.append(trajectories.draw_start(9, make_generator(0, index))[1]["img"])
        assert trajectories.draw_start(0, make_generator(0, index))[1]["txt"] <= 0.5
    assert len(set(starts)) == 50 and 0.0 <= min(starts) < 0.2 < 0.8 < max(starts) <= 1.0
    # The first phase reaches half an epoch, which one epoch later is in the line to epoch 3 too
    for iteration, epochs in ((0, {"img": 1.5, "txt": 0.25}), (9, {"img": 2.0, "txt": 0.0})):
        found = trajectories.at(iteration, 1, epochs)
        for group, epoch in epochs.items():
            _assert_on_line(problem, found[group], group, epoch)


def _assert_on_line(problem, found, group, epoch):
    """By hand: the way of each layer up to an epoch, as a share of its way to epoch 3."""
    thetas = [problem.buffer.snapshot(1, index)[group] for index in range(4)]
    begin = 0
    for size in problem.flat.layers(group):
        parts = [theta[begin : begin + size].double() for theta in thetas]
        steps = [float((parts[index + 1] - parts[index]).norm()) for index in range(3)]
        walked = sum(min(1.0, max(0.0, epoch - index)) * steps[index] for index in range(3))
        share = walked / sum(steps)
        expected = (1 - share) * parts[0] + share * parts[3]
        torch.testing.assert_close(
            found[begin : begin + size].double(), expected, rtol=1e-4, atol=1e-6
        )
        begin += size


def test_the_end_of_an_earlier_phase_is_as_much_earlier_as_its_last_start(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {"iterations": 10, "max_start_epoch": 3, "num_phases": 2, "convex_epochs": 3}
    trajectories = _trajectories(problem, **change)
    for iteration, end in ((0, 2), (9, 3)):
        found = trajectories.at(iteration, 0, {"img": float(end), "txt": float(end)})
        for group, value in problem.buffer.snapshot(0, end).items():
            torch.testing.assert_close(found[group], value)


def test_a_trajectory_that_is_straight_already_stays_as_it_is(tmp_path):
    problem = make_problem(tmp_path, "heads")
    start, snapshots = problem.buffer.snapshot(0, 0), {}
    for group, value in start.items():
        move = torch.randn(value.shape, generator=make_generator(0, group))
        for epoch, way in enumerate((0.0, 1.0, 1.5, 3.0)):
            snapshots[f"{group}_{epoch:03d}"] = value + way * move
    folder = tmp_path / "straight"
    folder.mkdir()
    save_snapshots(folder, snapshots, storage="float32", shared={})
    problem = dataclasses.replace(problem, buffer=Buffer([folder], {}, device=CPU))
    plain, straight = _trajectories(problem), _trajectories(problem, convex_epochs=3)
    for epochs in ({"img": 1, "txt": 2}, {"img": 0, "txt": 3}):
        one, other = (each.at(0, 0, epochs) for each in (plain, straight))
        for group in one:
            torch.testing.assert_close(one[group], other[group], rtol=1e-4, atol=1e-5)


def test_a_goal_starts_and_ends_at_the_epochs_of_each_group(tmp_path):
    problem = make_problem(tmp_path, "heads")
    for change in (AMD, PTM_ST, {**AMD, **PTM_ST}):
        config = dataclasses.replace(CONFIG, max_start_epoch=3, **change)
        goal = segment_goals(problem.flat, problem.buffer, config)(11, make_generator(3))
        trajectories = Trajectories(problem.flat, problem.buffer, config)
        expert, starts = trajectories.draw_start(11, make_generator(3))
        ends = {group: start + 1 for group, start in starts.items()}
        assert float(goal.loss(trajectories.at(11, expert, ends))) == 0.0
        assert float(goal.loss(goal.theta0)) == pytest.approx(2.0)
        for group, value in trajectories.at(11, expert, starts).items():
            assert torch.equal(goal.theta0[group], value)


METHODS = {"bi": (bi_trajectory, CONFIG), "lors": (lors, LORS), "repblend": (repblend, REPBLEND)}


@pytest.mark.parametrize("change", [AMD, PTM_ST], ids=["amd", "ptm_st"])
@pytest.mark.parametrize("method", METHODS)
def test_every_trajectory_method_takes_the_options_and_its_gradient_is_exact(
    tmp_path, method, change
):
    module, config = METHODS[method]
    problem = make_problem(tmp_path, "heads")
    change = {**change, "iterations": 3, "optimiser": "sgd"}
    found = {}
    for engine in ("double_backward", "unroll"):
        found[engine] = run_method(module, problem, config, engine=engine, **change)
    got, expected = found["double_backward"], found["unroll"]
    torch.testing.assert_close(got.pairs.images, expected.pairs.images, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pairs.text_embeds, expected.pairs.text_embeds, rtol=0, atol=1e-5)
    plain = run_method(module, problem, config, iterations=3, optimiser="sgd")
    assert plain.history != got.history


@pytest.mark.parametrize("change", [AMD, {"convex_epochs": 3, "max_start_epoch": 1}])
def test_the_loss_falls_towards_what_students_follow(tmp_path, change):
    problem = make_problem(tmp_path, "heads")
    change = {**change, "iterations": 60, "step_size_img": 0.03, "step_size_txt": 0.03}
    history = run_method(bi_trajectory, problem, CONFIG, **change).history
    assert mean_loss(history[-10:]) < 0.9 * mean_loss(history[:10])


def test_a_resumed_run_has_the_bytes_of_one_without_a_break(tmp_path):
    problem, file = make_problem(tmp_path, "heads"), tmp_path / "c.safetensors"
    change = {**AMD, **PTM_ST, "max_start_epoch": 3}

    def kill(row, iteration):
        if iteration == 7:
            raise Killed

    expected = run_method(bi_trajectory, problem, CONFIG, **change)
    with pytest.raises(Killed):
        run_method(bi_trajectory, problem, CONFIG, **change, checkpoint=file, log=kill)
    got = run_method(bi_trajectory, problem, CONFIG, **change, checkpoint=file)
    assert got.history == expected.history
    assert torch.equal(got.pairs.images, expected.pairs.images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"convex_epochs": 1}, r"x\.convex_epochs: received 1; .*allowed is null, or 2 to 3"),
        ({"convex_epochs": 4}, r"x\.convex_epochs: received 4; .*experts at 3 .*or 2 to 3"),
        (
            {"max_start_epoch": 1, "starts": "independent"},
            r"x\.starts: received independent with max_start_epoch 1, .*allowed is joint",
        ),
        (
            {"max_start_epoch": 1, "num_phases": 2},
            r"x\.num_phases: received 2 with max_start_epoch 1, .*allowed is 1",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_with_their_place(change, message):
    check_matching(dataclasses.replace(CONFIG, **AMD), 3, (6,), trainable="full", where="x")
    with pytest.raises(ValueError, match=message):
        check_matching(dataclasses.replace(CONFIG, **change), 3, (6,), trainable="heads", where="x")


def test_independent_starts_need_two_groups():
    config = dataclasses.replace(CONFIG, **AMD)
    with pytest.raises(ValueError, match=r"x\.starts: .*'text_head'.*allowed is joint"):
        check_matching(config, 3, (6,), trainable="text_head", where="x")
