"""Sets that are small in bytes: rounded inside the loop, of several texts an image, of several
parts a picture.
"""

import dataclasses
from functools import partial

import pytest
import torch

from tasks.core.distillation.distillers import bi_trajectory, lors
from tasks.core.distillation.run import run
from tasks.core.training.eight_bits import round_images, round_texts
from tasks.core.training.pair_files import load_pairs, num_bytes, save_pairs
from tests.core.distillation.method_samples import LORS, resumed, run_method
from tests.core.hypergradient.small_problem import MATCHING, make_problem

CONFIG = bi_trajectory.Config(**MATCHING, include_positive=True)
HALF = (0.5, 0.5, 0.5)


def _run(problem, num_pairs=6, **changes):
    return run_method(bi_trajectory, problem, CONFIG, num_pairs, **changes)


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_a_rounded_set_is_the_one_that_was_optimised(tmp_path, trainable):
    problem = make_problem(tmp_path, trainable)
    found = _run(problem, storage="uint8")
    pairs = found.pairs
    assert torch.equal(pairs.images, round_images(pairs.images, HALF, HALF))
    assert torch.equal(pairs.text_embeds, round_texts(pairs.text_embeds))
    assert not torch.equal(pairs.images, found.initial.images)
    save_pairs(tmp_path, pairs)
    assert torch.equal(load_pairs(tmp_path).images, pairs.images)


def test_a_step_smaller_than_a_level_is_not_lost(tmp_path):
    """Sixty steps of a tenth of a level move pixels by levels: the exact values are kept."""
    changes = {"iterations": 60, "lr_img": 0.1 * 2 / 255, "storage": "uint8"}
    found = _run(make_problem(tmp_path, "heads"), **changes)
    moved = (found.pairs.images - found.initial.images).abs() * 255 / 2
    assert float(moved.max()) > 2.5


def test_a_rounded_run_that_is_interrupted_ends_with_the_same_bytes(tmp_path):
    problem = make_problem(tmp_path)
    change = {"storage": "uint8", "texts_per_image": 2, "parts": 2, "picture_size": 6}
    change["num_pairs"] = 3

    expected = _run(problem, **change).pairs
    got = resumed(partial(_run, problem, **change), tmp_path / "c.safetensors").pairs
    assert torch.equal(got.images, expected.images)
    assert torch.equal(got.text_embeds, expected.text_embeds)


@pytest.mark.parametrize("picture_size", [None, 4])
@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_the_gradient_of_parts_and_texts_is_that_of_differences(tmp_path, trainable, picture_size):
    problem = make_problem(tmp_path, trainable)
    config = dataclasses.replace(
        CONFIG,
        iterations=1,
        optimiser="sgd",
        momentum=0.0,
        lr_img=1.0,
        lr_txt=1.0,
        parts=2,
        picture_size=picture_size,
        texts_per_image=2,
        engine="double_backward",
    )
    objective = bi_trajectory.objective(problem, config, 3)
    found = run(problem, config, 3, objective)
    start = dataclasses.replace(
        found.pairs, images=found.initial.images, text_embeds=found.initial.text_embeds
    )

    def loss(**changes):
        pairs = dataclasses.replace(start, **changes)
        begin = dataclasses.replace(found, pairs=pairs)
        return run(problem, config, 3, objective, begin=begin).history[0]["loss"]

    assert loss() == pytest.approx(found.history[0]["loss"], rel=1e-6)
    for name in ("images", "text_embeds"):
        at = getattr(start, name)
        grad = at - getattr(found.pairs, name)  # a step of size 1 against it
        length = float(grad.norm())
        far = 3e-3 * grad / length
        slope = (loss(**{name: at + far}) - loss(**{name: at - far})) / 2 / 3e-3
        assert slope == pytest.approx(length, rel=5e-3)


def test_several_texts_start_from_the_captions_of_their_image(tmp_path):
    problem = make_problem(tmp_path, "heads")
    found = _run(problem, 5, iterations=1, texts_per_image=3)
    initial, pairs = found.initial, found.pairs
    assert len(initial.caption_idx) == 15 == pairs.num_training_pairs
    owners = problem.train.caption_image_idx[initial.caption_idx].view(5, 3)
    assert torch.equal(owners, initial.image_idx[:, None].expand(5, 3))
    for captions in initial.caption_idx.view(5, 3).tolist():
        count = int((problem.train.caption_image_idx == owners[0, 0]).sum())
        assert len(set(captions)) >= min(count, 1)
    assert torch.equal(pairs.text_image_idx, torch.arange(5).repeat_interleave(3))
    single = _run(problem, 5, iterations=1)
    assert torch.equal(initial.caption_idx.view(5, 3)[:, 0], single.initial.caption_idx)


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_parts_of_lors_have_a_row_of_the_similarity_each(tmp_path, trainable):
    problem = make_problem(tmp_path, trainable)
    found = run_method(lors, problem, LORS, 3, parts=2, texts_per_image=2)
    pairs = found.pairs
    assert pairs.images.shape[0] == 3 and pairs.num_images == 12
    assert pairs.num_training_pairs == 24 and len(pairs.similarity.diagonal) == 12
    assert not torch.equal(pairs.similarity.diagonal, torch.ones(12))


def test_small_pictures_are_stored_small_and_seen_at_the_size_of_the_data(tmp_path):
    problem = make_problem(tmp_path, "heads")
    pairs = _run(problem, 5, picture_size=4, storage="uint8").pairs
    assert pairs.images.shape == (5, 3, 4, 4) and pairs.student_images().shape == (5, 3, 8, 8)
    save_pairs(tmp_path, pairs)
    again = load_pairs(tmp_path)
    assert again.image_size == 8 and torch.equal(again.student_images(), pairs.student_images())
    assert num_bytes(pairs) == 5 * 3 * 4 * 4 + 2 * pairs.text_embeds.numel()


def test_pictures_that_cannot_be_cut_or_filled_are_refused(tmp_path):
    problem = make_problem(tmp_path, "heads")
    with pytest.raises(ValueError, match=r"parts: received 3 for 2 pictures of 8 px"):
        _run(problem, 2, parts=3)
    with pytest.raises(ValueError, match=r"parts: received 2 for 2 pictures of 5 px"):
        _run(problem, 2, parts=2, picture_size=5)
    with pytest.raises(ValueError, match=r"start from 24 of 23 training images"):
        _run(problem, 6, parts=2)
