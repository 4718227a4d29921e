"""Pairs have weights in the student's loss: learned with an exact gradient, or the masses of
k-means, kept in the set and used by the students that are trained on it.
"""

import dataclasses
from functools import partial

import pytest
import torch

from tasks.core.distillation.distillers import bi_trajectory, lors, meta_model
from tasks.core.distillation.earlier_pairs import CAPTION_IDX, IMAGE_IDX, check_alike
from tasks.core.distillation.initialisation import initial_pairs
from tasks.core.distillation.matching_config import check_options
from tasks.core.distillation.run import run
from tasks.core.training.losses import info_nce
from tasks.core.training.pair_files import load_pairs, num_bytes, save_pairs, stored_bytes
from tasks.core.training.similarity import set_loss
from tasks.student_models import plain
from tests.core.distillation.method_samples import LORS, META, WARM, resumed, run_method
from tests.core.hypergradient.small_problem import MATCHING, make_encoder, make_problem

CONFIG = bi_trajectory.Config(**MATCHING, include_positive=True)
K_MEANS = {"init_image": "k_means", "init_text": "k_means"}


def _run(problem, num_pairs=6, **changes):
    return run_method(bi_trajectory, problem, CONFIG, num_pairs, **changes)


def _mass(problem, num_pairs=6):
    how = {"image": "k_means", "text": "k_means", "seed": problem.seed}
    return initial_pairs(problem.train, problem.encoder, num_pairs, **how).log_weights


@pytest.mark.parametrize("trainable", ["full", "heads"])
@pytest.mark.parametrize("include_positive", [True, False])
def test_the_gradient_of_weights_is_that_of_differences(tmp_path, trainable, include_positive):
    problem = make_problem(tmp_path, trainable)
    config = dataclasses.replace(
        CONFIG,
        iterations=1,
        optimiser="sgd",
        momentum=0.0,
        weights="learned",
        lr_weights=1.0,
        include_positive=include_positive,
        engine="double_backward",
    )
    objective = bi_trajectory.objective(problem, config, 6)
    found = run(problem, config, 6, objective)
    grad = -found.pairs.log_weights  # a step of size 1 from equal weights
    length = float(grad.norm())

    def loss(log_weights):
        pairs = dataclasses.replace(
            found.pairs,
            images=found.initial.images,
            text_embeds=found.initial.text_embeds,
            log_weights=log_weights,
        )
        begin = dataclasses.replace(found, pairs=pairs)
        return run(problem, config, 6, objective, begin=begin).history[0]["loss"]

    far = 0.03 * grad / length
    assert length > 1e-4
    assert (loss(far) - loss(-far)) / 0.06 == pytest.approx(length, rel=1e-2)


def test_weights_of_k_means_are_the_shares_of_its_cells_and_stay(tmp_path):
    problem = make_problem(tmp_path, "heads")
    mass = _mass(problem)
    share = mass.exp()
    assert float(share.mean()) == pytest.approx(1.0) and float(share.std()) > 0.1
    counts = share * problem.train.num_images / 6
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    fixed = _run(problem, weights="mass", **K_MEANS).pairs
    assert torch.equal(fixed.log_weights, mass)
    learned = _run(problem, weights="learned", **K_MEANS).pairs
    assert not torch.equal(learned.log_weights, mass)
    assert _run(problem, iterations=1, **K_MEANS).pairs.log_weights is None


def test_equal_weights_that_stay_give_the_set_without_weights(tmp_path):
    problem = make_problem(tmp_path, "heads")
    expected = _run(problem).pairs
    found = _run(problem, weights="learned", lr_weights=0.0).pairs
    assert torch.equal(found.log_weights, torch.zeros(6))
    # Another order of the same sums
    assert torch.allclose(found.images, expected.images, atol=1e-4)
    assert torch.allclose(found.text_embeds, expected.text_embeds, atol=1e-4)


def test_a_set_keeps_its_weights_and_students_are_trained_with_them(tmp_path):
    problem = make_problem(tmp_path, "heads")
    pairs = _run(problem, weights="learned", storage="uint8", iterations=3).pairs
    save_pairs(tmp_path, pairs)
    stored = load_pairs(tmp_path)
    assert torch.equal(stored.log_weights, pairs.log_weights)
    without = dataclasses.replace(pairs, log_weights=None)
    assert num_bytes(pairs) == num_bytes(without) + 4 * 6 == stored_bytes(tmp_path)
    img, txt = torch.nn.functional.normalize(torch.randn(2, 3, 5), dim=2)
    rows = torch.tensor([4, 0, 5])
    expected = info_nce(img, txt, tau=0.1, log_weights=pairs.log_weights[rows])
    assert torch.equal(set_loss(stored, 0.1)(img, txt, rows), expected)
    assert not torch.equal(set_loss(without, 0.1)(img, txt, rows), expected)
    assert plain(stored).log_weights is None
    with pytest.raises(ValueError, match=r"log_weights: received \(5,\) .*allowed is \(6,\), one"):
        dataclasses.replace(pairs, log_weights=torch.zeros(5))


def test_parts_have_a_weight_each_and_an_interrupted_run_ends_with_the_same_bytes(tmp_path):
    problem = make_problem(tmp_path)
    change = {"weights": "learned", "parts": 2, "texts_per_image": 2, "num_pairs": 3}

    expected = _run(problem, **change).pairs
    got = resumed(partial(_run, problem, **change), tmp_path / "c.safetensors").pairs
    assert len(got.log_weights) == 12 and torch.equal(got.log_weights, expected.log_weights)
    assert torch.equal(got.images, expected.images)


def test_a_warm_start_hands_its_weights_on(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {"weights": "learned", "lr_weights": 0.3, "iterations": 1, "warm_start": WARM}
    found = run_method(meta_model, problem, META, **change).pairs
    # Seven steps of Adam, of 0.3 at most: more than one alone can go
    assert float(found.log_weights.abs().max()) > 0.31


def test_a_set_that_grows_keeps_the_weights_of_its_first_pairs(tmp_path):
    problem = make_problem(tmp_path, "heads")
    how = {"weights": "learned", "iterations": 2, "earlier_lr_scale": 0.0, **K_MEANS}
    first = _run(problem, 3, **how)
    places = {IMAGE_IDX: first.initial.image_idx, CAPTION_IDX: first.initial.caption_idx}
    facts = {name: value.tolist() for name, value in places.items()}
    earlier = first.pairs.with_provenance(facts)
    after = dataclasses.replace(problem, earlier=earlier)
    found = _run(after, 5, **how)
    assert torch.equal(found.pairs.log_weights[:3], earlier.log_weights)
    assert not torch.equal(found.pairs.log_weights[3:], found.initial.log_weights[3:])
    equal = dataclasses.replace(earlier, log_weights=None)
    grown = _run(dataclasses.replace(problem, earlier=equal), 5, **how).pairs
    assert torch.equal(grown.log_weights[:3], torch.zeros(3))
    with pytest.raises(ValueError, match=r"a set of weights of its own; allowed is none"):
        check_alike(earlier, CONFIG, problem.train, make_encoder())


def test_weights_without_a_meaning_are_refused(tmp_path):
    problem = make_problem(tmp_path, "heads")
    config = dataclasses.replace(CONFIG, weights="mass")
    with pytest.raises(ValueError, match=r"x\.weights: received 'mass' with init_image 'real'"):
        check_options(config, (6,), trainable="heads", where="x")
    soft = dataclasses.replace(LORS, weights="learned")
    with pytest.raises(ValueError, match=r"x\.weights: received 'learned'; a similarity weighs"):
        lors.check(soft, 3, (6,), trainable="heads", where="x")
    with pytest.raises(
        ValueError, match=r"weights: received 'learned' for a method whose students"
    ):
        run_method(lors, problem, soft)
