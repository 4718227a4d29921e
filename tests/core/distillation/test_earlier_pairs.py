"""A set goes on from a finished one: its pairs come first, stay or are slowed, and the same run
gives the same bytes.
"""

import dataclasses
from functools import partial

import pytest
import torch

from tasks.core.distillation.distillers import (
    bi_trajectory,
    cov_match,
    lors,
    mdm,
    meta_model,
    repblend,
    ridge_contrastive,
    spectral,
)
from tasks.core.distillation.earlier_pairs import CAPTION_IDX, IMAGE_IDX, check_alike
from tasks.core.training.eight_bits import round_images, round_texts
from tests.core.distillation.method_samples import (
    COV,
    LORS,
    MDM,
    META,
    REPBLEND,
    RIDGE,
    SPECTRAL,
    WARM,
    resumed,
    run_method,
)
from tests.core.hypergradient.small_problem import MATCHING, make_encoder, make_problem

CONFIG = bi_trajectory.Config(**MATCHING, include_positive=True)
HALF = (0.5, 0.5, 0.5)
NAMED = meta_model.NamedStart(
    method="ridge_contrastive",
    options=dataclasses.replace(RIDGE, earlier_lr_scale=0.0, iterations=2),
    step_size_scale=1.0,
)
METHODS = {
    "bi_trajectory": (bi_trajectory, CONFIG),
    "lors": (lors, LORS),
    "repblend": (repblend, REPBLEND),
    "meta_model": (meta_model, META),
    "warm": (meta_model, dataclasses.replace(META, warm_start=WARM)),
    "named": (meta_model, dataclasses.replace(META, warm_start=NAMED)),
    "cov_match": (cov_match, COV),
    "spectral": (spectral, SPECTRAL),
    "ridge_contrastive": (ridge_contrastive, RIDGE),
    "mdm": (mdm, MDM),
}


def _finished(found):
    """The set of a run as a stage stores it."""
    initial = found.initial
    places = {
        IMAGE_IDX: initial.image_idx.tolist(),
        CAPTION_IDX: initial.caption_idx.tolist(),
    }
    return found.pairs.with_provenance(places)


def _after(problem, pairs):
    """The problem of a set that begins with `pairs`; a further set has a seed of its own."""
    return dataclasses.replace(problem, earlier=pairs, seed=problem.seed + 1)


def _run(problem, num_pairs=6, **changes):
    return run_method(bi_trajectory, problem, CONFIG, num_pairs, **changes)


def _begins_with(pairs, earlier):
    """Whether the first rows of a set have the bytes of an earlier one."""
    count, texts = earlier.num_pairs, earlier.num_training_pairs
    rows = [
        (pairs.images[:count], earlier.images),
        (pairs.text_embeds[:texts], earlier.text_embeds),
    ]
    if earlier.similarity:
        for name, value in earlier.similarity.rows.items():
            rows.append((pairs.similarity.rows[name][: len(value)], value))
    return all(ours.numpy().tobytes() == theirs.numpy().tobytes() for ours, theirs in rows)


@pytest.mark.parametrize("method", METHODS)
def test_pairs_of_an_earlier_set_stay_byte_for_byte_and_the_others_move(tmp_path, method):
    module, config = METHODS[method]
    problem = make_problem(tmp_path, "heads")
    how = {"iterations": 2, "earlier_lr_scale": 0.0}
    earlier = _finished(run_method(module, problem, config, 3, **how))
    found = run_method(module, _after(problem, earlier), config, 5, **how)
    assert found.pairs.num_pairs == 5 and _begins_with(found.pairs, earlier)
    moved = (found.pairs.images != found.initial.images).flatten(1).any(1)
    assert moved.tolist() == [False, False, False, True, True]
    moved = (found.pairs.text_embeds != found.initial.text_embeds).any(1)
    assert moved.tolist() == [False, False, False, True, True]


def test_every_prefix_of_a_chain_is_the_set_of_its_size(tmp_path):
    problem, earlier, prefixes = make_problem(tmp_path, "full"), None, []
    for size in (2, 3, 6):
        earlier = _finished(
            _run(_after(problem, earlier), size, iterations=2, earlier_lr_scale=0.0)
        )
        prefixes.append(earlier)
    assert all(_begins_with(prefixes[-1], prefix) for prefix in prefixes)
    assert len(set(earlier.provenance[IMAGE_IDX])) == 6


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_rounded_sets_of_parts_and_several_texts_grow_too(tmp_path, trainable):
    problem = make_problem(tmp_path, trainable)
    how = {
        "storage": "uint8",
        "parts": 2,
        "texts_per_image": 2,
        "iterations": 3,
        "earlier_lr_scale": 0.0,
    }
    earlier = _finished(run_method(lors, problem, LORS, 2, **how))
    found = run_method(lors, _after(problem, earlier), LORS, 4, **how).pairs
    assert _begins_with(found, earlier) and len(found.similarity.diagonal) == 16
    assert torch.equal(found.images, round_images(found.images, HALF, HALF))
    assert torch.equal(found.text_embeds, round_texts(found.text_embeds))


def test_going_on_without_an_iteration_gives_the_set_back(tmp_path):
    problem = make_problem(tmp_path, "heads")
    earlier = _finished(run_method(lors, problem, LORS, 4))
    again = run_method(lors, _after(problem, earlier), LORS, 4, iterations=0)
    assert _begins_with(again.pairs, earlier)
    assert again.pairs.step_sizes == pytest.approx(earlier.step_sizes, rel=1e-6)
    assert again.pairs.step_sizes != pytest.approx({"img": 0.1, "txt": 0.1}, rel=1e-6)
    assert again.initial.image_idx.tolist() == earlier.provenance[IMAGE_IDX]


def test_going_on_from_a_set_lowers_its_loss_further(tmp_path):
    problem = make_problem(tmp_path, "heads")
    first = _run(problem, iterations=25)
    after = dataclasses.replace(problem, earlier=_finished(first))
    losses = [row["loss"] for row in _run(after, iterations=25).history]
    start = [row["loss"] for row in first.history]
    assert sum(losses[-10:]) < sum(losses[:10]) < sum(start[:10])


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_slowed_pairs_take_a_part_of_their_step_and_the_others_a_whole_one(tmp_path, optimiser):
    problem = make_problem(tmp_path, "heads")
    earlier = _finished(_run(problem, 3, iterations=2))
    steps = {}
    for scale in (1.0, 0.25):
        found = _run(
            _after(problem, earlier),
            5,
            iterations=1,
            optimiser=optimiser,
            earlier_lr_scale=scale,
            mini_batch_size=5,
        )
        steps[scale] = found.pairs.images - found.initial.images
    assert torch.allclose(steps[0.25][:3], 0.25 * steps[1.0][:3], atol=1e-6)
    assert torch.equal(steps[0.25][3:], steps[1.0][3:])
    assert bool(steps[1.0][:3].abs().amax((1, 2, 3)).all())


@pytest.mark.parametrize("how", ["real", "noise", "k_means"])
@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_further_pairs_start_from_other_real_pairs(tmp_path, how, trainable):
    problem = make_problem(tmp_path, trainable)
    change = {"iterations": 1, "init_image": how, "init_text": how}
    earlier = _finished(_run(problem, 9, **change))
    for seed in range(3):
        after = dataclasses.replace(problem, earlier=earlier, seed=seed)
        initial = _run(after, 20, **change).initial
        assert len(initial.image_idx.unique()) == 20 == len(initial.images)
        owners = problem.train.caption_image_idx[initial.caption_idx]
        assert torch.equal(owners, initial.image_idx)


def test_an_interrupted_run_that_goes_on_from_a_set_ends_with_the_same_bytes(tmp_path):
    problem = make_problem(tmp_path)
    earlier = _finished(_run(problem, 3, storage="uint8"))
    after, file = _after(problem, earlier), tmp_path / "c.safetensors"
    change = {"storage": "uint8", "earlier_lr_scale": 0.5}

    expected = _run(after, **change)
    got = resumed(partial(_run, after, **change), file)
    assert torch.equal(got.pairs.images, expected.pairs.images)
    assert torch.equal(got.pairs.text_embeds, expected.pairs.text_embeds)
    assert got.history == expected.history and got.pairs.step_sizes == expected.pairs.step_sizes


def test_students_begin_with_the_step_sizes_of_the_earlier_set_and_of_a_warm_start(tmp_path):
    problem = make_problem(tmp_path, "heads")
    sizes = {"img": 0.3, "txt": 0.2}
    earlier = dataclasses.replace(_finished(_run(problem, 3, iterations=1)), step_sizes=sizes)
    first = _run(_after(problem, earlier), 5, iterations=1).history[0]
    assert (first["step_size_img"], first["step_size_txt"]) == pytest.approx((0.3, 0.2))
    module, config = METHODS["warm"]
    history = run_method(module, _after(problem, earlier), config, 5, iterations=1).history
    before = [row for row in history if row["is_warm_start"]]
    assert before[0]["step_size_img"] == pytest.approx(WARM.step_size_img)
    assert history[-1]["step_size_img"] == pytest.approx(2 * before[-1]["step_size_img"], rel=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": 2}, r"a set of parts 1; allowed is 2"),
        ({"picture_size": 4}, r"a set of pictures \(3, 8, 8\); allowed is \(3, 4, 4\)"),
        ({"texts_per_image": 2}, r"a set of texts_per_image 1; allowed is 2"),
        ({"storage": "uint8"}, r"a set of storage float32; allowed is uint8"),
        ({"images": torch.zeros(3, 3, 4, 4)}, r"pictures \(3, 4, 4\); allowed is \(3, 8, 8\)"),
        ({"text_embeds": torch.zeros(3, 5)}, r"numbers of a text 5; allowed is 6"),
        ({"mean": (0.4, 0.5, 0.5)}, r"a set of mean \(0.4, 0.5, 0.5\); allowed is \(0.5"),
    ],
)
def test_a_set_of_another_form_is_refused(tmp_path, change, words):
    problem = make_problem(tmp_path, "heads")
    pairs, config = _finished(_run(problem, 3, iterations=1)), CONFIG
    check_alike(pairs, config, problem.train, make_encoder())
    if set(change) <= set(MATCHING):
        config = dataclasses.replace(config, **change)
    else:
        pairs = dataclasses.replace(pairs, **change)
    with pytest.raises(ValueError, match=rf"begin_with: received .*{words}.*change `begin_with`"):
        check_alike(pairs, config, problem.train, make_encoder())


def test_several_texts_of_different_numbers_are_refused(tmp_path):
    problem = make_problem(tmp_path, "heads")
    config = dataclasses.replace(CONFIG, texts_per_image=2)
    pairs = _run(problem, 2, iterations=1).pairs
    odd = dataclasses.replace(
        pairs, text_embeds=torch.zeros(4, 6), text_image_idx=torch.tensor([0, 0, 0, 1])
    )
    with pytest.raises(ValueError, match=r"texts_per_image of different numbers; allowed is 2"):
        check_alike(odd, config, problem.train, make_encoder())


def test_a_larger_set_and_a_similarity_that_is_not_learned_are_refused(tmp_path):
    problem = make_problem(tmp_path, "heads")
    after = _after(problem, _finished(run_method(lors, problem, LORS, 4, iterations=1)))
    with pytest.raises(ValueError, match=r"a set of 4 pairs for one of 3; allowed is one of at"):
        run_method(lors, after, LORS, 3)
    with pytest.raises(ValueError, match=r"a similarity of rank 2 and alpha 1; allowed is no sim"):
        _run(after, 6)
    with pytest.raises(ValueError, match=r"rank 2 and alpha 1; allowed is a similarity of rank 1"):
        run_method(lors, after, LORS, 6, sim_rank=1)
