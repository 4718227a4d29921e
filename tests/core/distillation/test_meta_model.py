"""meta_model: the loss on real pairs, fresh students and the warm start."""

import dataclasses
import json

import pytest
import torch

from tasks.core.distillation.distillers import (
    bi_trajectory,
    lors,
    meta_model,
    ridge_contrastive,
)
from tests.core.distillation.method_samples import (
    LORS,
    META,
    RIDGE,
    WARM,
    Killed,
    mean_loss,
    run_method,
)
from tests.core.hypergradient.small_problem import MATCHING, make_problem


def test_meta_model_lowers_the_loss_on_real_pairs(tmp_path):
    change = {
        "iterations": 24,
        "mini_batch_size": 6,
        "max_start_epoch": 1,
        "step_size_img": 0.03,
        "step_size_txt": 0.03,
    }
    history = run_method(
        meta_model,
        make_problem(tmp_path, "heads"),
        META,
        **change,
        is_dropout_on=False,
        real_batch_size=99,
    ).history
    assert mean_loss(history[-5:]) < 0.9 * mean_loss(history[:5])
    assert all(
        row["loss"] == pytest.approx(row["loss_img"] + row["loss_txt"], rel=1e-5) for row in history
    )


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_meta_model_is_differentiated_exactly_from_fresh_students_too(tmp_path, trainable):
    problem = make_problem(tmp_path, trainable)
    change = {
        "iterations": 2,
        "optimiser": "sgd",
        "lr_img": 1.0,
        "lr_txt": 1.0,
        "start_from": "fresh",
    }
    got, expected = (
        run_method(meta_model, problem, META, engine=engine, **change)
        for engine in ("double_backward", "unroll")
    )
    assert torch.allclose(got.pairs.images, expected.pairs.images, atol=1e-5) and not torch.equal(
        got.pairs.images, got.initial.images
    )
    assert torch.allclose(got.pairs.text_embeds, expected.pairs.text_embeds, atol=1e-5)
    assert (
        run_method(meta_model, problem, META, **{**change, "start_from": "expert"}).history
        != got.history
    )


def test_meta_model_goes_on_from_a_set_that_bi_trajectory_matching_made(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {"iterations": 3, "student_momentum": 0.5, "start_from": "fresh"}
    seen: list[int] = []
    found = run_method(
        meta_model,
        problem,
        META,
        warm_start=WARM,
        log=lambda row, iteration: seen.append(iteration),
        **change,
    )
    own = {name: value for name, value in vars(WARM).items() if name != "step_size_scale"}
    matched = run_method(
        bi_trajectory,
        problem,
        bi_trajectory.Config(**{**MATCHING, **own, "student_momentum": 0.5}, include_positive=True),
    )
    assert [row.pop("is_warm_start") for row in found.history] == [1.0] * 6 + [0.0] * 3
    assert found.history[:6] == matched.history and seen == list(range(9))
    still = run_method(
        meta_model,
        problem,
        META,
        warm_start=WARM,
        **change,
        lr_img=1e-12,
        lr_txt=1e-12,
        lr_step_size=0.0,
    )
    torch.testing.assert_close(still.pairs.images, matched.pairs.images, rtol=0, atol=1e-9)
    assert still.pairs.step_sizes == pytest.approx(
        {group: 2.0 * size for group, size in matched.pairs.step_sizes.items()}
    )
    assert torch.equal(found.initial.images, matched.initial.images) and not torch.allclose(
        found.pairs.images, matched.pairs.images
    )


@pytest.mark.parametrize("moment", [4, 8])
def test_a_run_with_a_warm_start_that_is_killed_in_either_part_ends_with_the_same_bytes(
    tmp_path, moment
):
    problem = make_problem(tmp_path, "heads")
    config = dataclasses.replace(
        META, warm_start=WARM, iterations=4, checkpoint_every=2, start_from="fresh"
    )
    expected = run_method(meta_model, problem, config)

    def kill(row, iteration):
        if iteration == moment:
            raise Killed

    with pytest.raises(Killed):
        run_method(meta_model, problem, config, checkpoint=tmp_path / "c.safetensors", log=kill)
    seen: list[int] = []
    got = run_method(
        meta_model,
        problem,
        config,
        checkpoint=tmp_path / "c.safetensors",
        log=lambda row, iteration: seen.append(iteration),
    )
    assert torch.equal(got.pairs.images, expected.pairs.images) and got.history == expected.history
    # Of ten: both parts go on from their last checkpoint
    assert len(seen) == (6 if moment == 4 else 2)


def test_a_warm_start_is_checked_with_its_place():
    with pytest.raises(
        ValueError,
        match=r"x\.warm_start: max_start_epoch 1 and expert_epochs 9 need experts of 9 epochs",
    ):
        meta_model.check(
            dataclasses.replace(META, warm_start=dataclasses.replace(WARM, expert_epochs=9)),
            3,
            (6,),
            trainable="heads",
            where="x",
        )
    assert dataclasses.replace(META, warm_start=WARM).total_iterations == META.iterations + 6


def _named(module, config, **changes):
    name = module.__name__.rpartition(".")[2]
    options = dataclasses.replace(config, **changes)
    return meta_model.NamedStart(method=name, options=options, step_size_scale=2.0)


def test_bi_trajectory_by_its_name_is_the_warm_start_without_a_name(tmp_path):
    problem = make_problem(tmp_path, "heads")
    own = {name: value for name, value in vars(WARM).items() if name != "step_size_scale"}
    matched = bi_trajectory.Config(**MATCHING, include_positive=True)
    found, plain = (
        run_method(meta_model, problem, META, warm_start=start, iterations=3)
        for start in (_named(bi_trajectory, matched, **own), WARM)
    )
    assert found.history == plain.history and found.pairs.step_sizes == plain.pairs.step_sizes
    assert torch.equal(found.pairs.images, plain.pairs.images)


@pytest.mark.parametrize(("module", "config"), [(ridge_contrastive, RIDGE), (lors, LORS)])
def test_meta_model_goes_on_from_the_set_of_a_named_method(tmp_path, module, config):
    problem, change = make_problem(tmp_path, "heads"), {"iterations": 3, "start_from": "fresh"}
    start = _named(module, config, iterations=4)
    found = run_method(meta_model, problem, META, warm_start=start, **change)
    before = run_method(module, problem, start.options)
    assert [row.pop("is_warm_start") for row in found.history] == [1.0] * 4 + [0.0] * 3
    assert found.history[:4] == before.history and found.pairs.similarity is None
    size = 2.0 * before.pairs.step_sizes["img"] if before.pairs.step_sizes else META.step_size_img
    assert found.history[4]["step_size_img"] == pytest.approx(size)
    still = {"lr_img": 1e-12, "lr_txt": 1e-12, "lr_step_size": 0.0}
    kept = run_method(meta_model, problem, META, warm_start=start, **change, **still).pairs
    torch.testing.assert_close(kept.images, before.pairs.images, rtol=0, atol=1e-9)


def test_meta_model_needs_experts_where_one_of_its_parts_does():
    fresh = dataclasses.replace(META, start_from="fresh")
    starts = {"none": None, "ridge": _named(ridge_contrastive, RIDGE), "lors": _named(lors, LORS)}
    needs = {}
    for name, start in {**starts, "matching": WARM}.items():
        needs[name] = dataclasses.replace(fresh, warm_start=start).needs_experts
    assert needs == {"none": False, "ridge": False, "lors": True, "matching": True}
    assert META.needs_experts
    config = dataclasses.replace(fresh, warm_start=starts["ridge"])
    assert config.total_iterations == fresh.iterations + RIDGE.iterations
    assert config.repeats == ("iterations", "warm_start.options.iterations")


def test_a_named_warm_start_is_checked_with_its_place():
    with pytest.raises(
        ValueError, match=r"x\.warm_start\.options\.is_budget_compensated: received"
    ):
        _check_meta(warm_start=_named(lors, LORS, is_budget_compensated=True))
    with pytest.raises(
        ValueError, match=r"x\.warm_start\.options\.lr_img: received \{7: 1\.0\} for 6"
    ):
        _check_meta(warm_start=_named(ridge_contrastive, RIDGE, lr_img={7: 1.0}))
    with pytest.raises(ValueError, match=r"x\.warm_start\.options\.parts: received 2, and 1 for"):
        _check_meta(warm_start=_named(ridge_contrastive, RIDGE, parts=2))


@pytest.mark.parametrize(("own", "wanted"), [("null", "4"), ("4", "null"), ("2", "4")])
def test_a_named_warm_start_with_pictures_of_another_size_is_refused(own, wanted):
    start = _named(ridge_contrastive, RIDGE, picture_size=json.loads(own))
    told = rf"options\.picture_size: received {own}, and {wanted} for .* allowed is {wanted};"
    with pytest.raises(ValueError, match=told):
        _check_meta(warm_start=start, picture_size=json.loads(wanted))


def _check_meta(**changes):
    meta_model.check(dataclasses.replace(META, **changes), 3, (6,), trainable="heads", where="x")


def test_options_of_experts_that_meta_model_does_not_read_are_not_checked():
    _check_meta(expert_epochs=9)
    _check_meta(expert_epochs=9, max_start_epoch=4)
    _check_meta(expert_epochs=9, max_start_epoch=9, start_from="fresh")
    with pytest.raises(
        ValueError,
        match=r"x\.max_start_epoch: received 5 with experts of 3 epochs .*allowed is 1 to 4",
    ):
        _check_meta(max_start_epoch=5)


@pytest.mark.parametrize("start_from", ["expert", "fresh"])
def test_an_option_of_segments_that_meta_model_would_ignore_is_the_warm_starts_or_refused(
    start_from,
):
    change = {"merge_branches": True, "start_from": start_from}
    with pytest.raises(
        ValueError,
        match=r"x\.merge_branches: received True; .* reads no segments of experts; allowed is "
        r"false",
    ):
        _check_meta(**change)
    with pytest.raises(ValueError, match=r"x\.merge_branches: received True; .* is false"):
        _check_meta(**change, warm_start=_named(ridge_contrastive, RIDGE))
    _check_meta(**change, warm_start=_named(lors, LORS))
    _check_meta(**change, warm_start=WARM)
    assert dataclasses.replace(META, **change, warm_start=WARM).matching().merge_branches


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("starts", "independent", '"joint"'),
        ("num_phases", 2, "1"),
        ("convex_epochs", 3, "null"),
        ("distance", "norm", '"squared"'),
    ],
)
def test_options_of_segments_are_the_warm_starts(name, value, allowed):
    change = {name: value}
    with pytest.raises(
        ValueError, match=rf"x\.{name}: received {value}; meta_model .*allowed is {allowed};"
    ):
        _check_meta(**change)
    warm = dataclasses.replace(WARM, max_start_epoch=2)
    _check_meta(**change, warm_start=warm)
    matching = dataclasses.replace(META, **change, warm_start=warm).matching()
    assert getattr(matching, name) == value


def test_every_goal_of_meta_model_has_a_fresh_student_of_its_own(tmp_path):
    problem, asked = make_problem(tmp_path, "heads"), list[int]()

    def fresh(number):
        asked.append(number)
        return problem.fresh_theta(number)

    noted = dataclasses.replace(problem, fresh_theta=fresh)
    run_method(meta_model, noted, META, iterations=2, goals_per_iteration=3, start_from="fresh")
    assert len(asked) == len(set(asked)) == 6
    run_method(meta_model, noted, META, iterations=1, goals_per_iteration=3, start_from="fresh")
    assert asked[6:] == asked[:3]
