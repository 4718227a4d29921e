"""Methods without experts and students: `cov_match`, `spectral` and `ridge_contrastive`."""

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy, gelu, normalize

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.distillers import cov_match, ridge_contrastive, spectral
from tasks.core.distillation.distillers.ridge_contrastive import ridge_predictions
from tasks.core.distillation.feature_method import RealPairs
from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.dual_encoder import Projection
from tasks.core.training.covariances import Moments
from tests.core.distillation.method_samples import (
    COV,
    RIDGE,
    SPECTRAL,
    Killed,
    mean_loss,
    run_method,
)
from tests.core.hypergradient.small_problem import CPU, make_problem

METHODS = [(cov_match, COV), (spectral, SPECTRAL), (ridge_contrastive, RIDGE)]
PLAIN = dataclasses.replace(RIDGE, features="plain")


def _rows(problem, num_pairs=6):
    train = problem.train
    draw = make_generator(1, "rows")
    return {
        "features": train.features[:num_pairs] + 0.1 * torch.randn(num_pairs, 7, generator=draw),
        "text_embeds": torch.randn(num_pairs, 6, generator=draw),
    }


def _double(problem):
    """The problem with its real pairs in float64."""
    train = problem.train
    wide = dataclasses.replace(
        train, features=train.features.double(), text_embeds=train.text_embeds.double()
    )
    return dataclasses.replace(problem, train=wide)


@pytest.mark.parametrize(("module", "config"), [*METHODS, (ridge_contrastive, PLAIN)])
def test_the_gradient_of_the_loss_is_that_of_differences(tmp_path, module, config):
    problem = _double(make_problem(tmp_path, "heads"))
    loss = module.rows_loss(problem, config, 6, RealPairs.of(problem))
    rows = {name: value.double().requires_grad_() for name, value in _rows(problem).items()}

    def value(features, text_embeds):
        return loss({"features": features, "text_embeds": text_embeds}, 3)[0]

    assert torch.autograd.gradcheck(value, tuple(rows.values()), rtol=1e-4)


@pytest.mark.parametrize(("module", "config"), METHODS)
def test_the_order_of_pairs_is_of_no_account(tmp_path, module, config):
    problem = make_problem(tmp_path, "heads")
    rows, order = _rows(problem), torch.tensor([3, 0, 5, 1, 2, 4])
    loss = module.rows_loss(problem, config, 6, RealPairs.of(problem))
    value, terms = loss(rows, 2)
    moved, _ = loss({name: part[order] for name, part in rows.items()}, 2)
    assert float(moved) == pytest.approx(float(value), rel=1e-4)
    assert sum(terms.values()) == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize(("module", "config"), METHODS)
def test_the_loss_falls_without_experts_and_no_step_sizes_are_learned(tmp_path, module, config):
    problem = dataclasses.replace(
        make_problem(tmp_path, "heads"), buffer=Buffer([], {}, device=CPU)
    )
    found = run_method(module, problem, config, iterations=40)
    assert mean_loss(found.history[-5:]) < 0.9 * mean_loss(found.history[:5])
    assert found.pairs.step_sizes is None and found.pairs.num_pairs == 6
    assert set(found.history[0]) == {"loss", "loss_img", "loss_txt"}
    assert not torch.equal(found.pairs.images, found.initial.images)
    assert not config.needs_experts


@pytest.mark.parametrize(("module", "config"), METHODS)
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, module, config):
    problem = make_problem(tmp_path, "heads")
    config = dataclasses.replace(config, iterations=6, checkpoint_every=2, num_views=2)

    def kill(row, iteration):
        if iteration == 4:
            raise Killed

    file = tmp_path / "c.safetensors"
    expected = run_method(module, problem, config)
    with pytest.raises(Killed):
        run_method(module, problem, config, checkpoint=file, log=kill)
    got = run_method(module, problem, config, checkpoint=file)
    assert got.history == expected.history and torch.equal(got.pairs.images, expected.pairs.images)
    assert torch.equal(got.pairs.text_embeds, expected.pairs.text_embeds)


@pytest.mark.parametrize(("optimise", "name"), [("image", "text_embeds"), ("text", "images")])
def test_a_modality_that_is_not_optimised_stays(tmp_path, optimise, name):
    problem = make_problem(tmp_path, "heads")
    found = run_method(cov_match, problem, COV, iterations=2, optimise=optimise)
    assert torch.equal(getattr(found.pairs, name), getattr(found.initial, name))
    other = {"images", "text_embeds"} - {name}
    assert not torch.equal(getattr(found.pairs, *other), getattr(found.initial, *other))


def test_a_trained_encoder_is_taken_as_it_was_pretrained(tmp_path):
    """Its features come once from the encoder itself: the set is that of a frozen one."""
    frozen = run_method(cov_match, make_problem(tmp_path / "a", "heads"), COV).pairs
    trained = run_method(cov_match, make_problem(tmp_path / "b", "full"), COV).pairs
    assert torch.equal(frozen.images, trained.images)


def test_spectral_with_a_large_ridge_is_cov_match(tmp_path):
    problem = make_problem(tmp_path, "heads")
    real, rows = RealPairs.of(problem), _rows(problem)
    size = float(Moments.of(real.features, real.text_embeds, real.owner).cross.square().sum())
    coarse = dataclasses.replace(SPECTRAL, b_start=1e7, b_end=1e7, mean_weight=0.0)
    plain = dataclasses.replace(COV, rho=1.0, mean_weight=0.0)
    found, _ = spectral.rows_loss(problem, coarse, 6, real)(rows, 0)
    expected, _ = cov_match.rows_loss(problem, plain, 6, real)(rows, 0)
    assert size * float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("features", "images: received .* equal vectors"),
        ("text_embeds", "captions: received .* equal vectors"),
        ("owner", r"have nothing in common \(\|C\|\^2"),
    ],
)
def test_spectral_says_which_real_pairs_have_no_map(tmp_path, field, message):
    problem = make_problem(tmp_path, "heads")
    real = RealPairs.of(problem)
    if field == "owner":
        # Every image has both texts
        owner = torch.arange(len(real.features)).repeat_interleave(2)
        texts = real.text_embeds[:2].repeat(len(real.features), 1)
        real = RealPairs(real.features, texts, owner)
    else:
        value = getattr(real, field)
        real = dataclasses.replace(real, **{field: value[:1].expand_as(value)})
    with pytest.raises(ValueError, match=message):
        spectral.rows_loss(problem, SPECTRAL, 6, real)


def test_options_of_cov_match_may_depend_on_the_budget(tmp_path):
    problem = make_problem(tmp_path, "heads")
    by_size = dataclasses.replace(COV, rho={6: 2.0}, mean_weight={6: 0.1}, iterations=2)
    found, plain = (
        run_method(cov_match, problem, config, iterations=2).history for config in (by_size, COV)
    )
    assert found == plain
    with pytest.raises(ValueError, match=r"x\.rho: received \{6: 2\.0\} for 7 pairs"):
        cov_match.check(by_size, 3, (6, 7), trainable="full", where="x")
    cov_match.check(dataclasses.replace(COV, mean_weight=0.0), 3, (6,), trainable="full", where="x")
    with pytest.raises(ValueError, match=r"x\.mean_weight: received -1\.0 .* positive number or 0"):
        cov_match.check(
            dataclasses.replace(COV, mean_weight=-1.0), 3, (6,), trainable="full", where="x"
        )


def test_the_ridge_falls_along_half_a_cosine():
    config = dataclasses.replace(SPECTRAL, b_start=9.0, b_end=1.0, iterations=4)
    assert [round(config.b(index), 3) for index in (0, 1, 2, 4)] == [9.0, 7.828, 5.0, 1.0]


def test_ridge_predictions_are_those_of_regularised_least_squares():
    """As least squares with lambda appended to the rows, by another routine."""
    draw = make_generator(0, "ridge")
    x, y, new = (
        torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape in ((5, 8), (5, 3), (4, 8))
    )
    strength = 0.3 * (x @ x.T).diagonal().mean()
    rows = torch.cat([x, strength.sqrt() * torch.eye(8, dtype=torch.float64)])
    targets = torch.cat([y, torch.zeros(8, 3, dtype=torch.float64)])
    expected = new @ torch.linalg.lstsq(rows, targets).solution
    assert torch.allclose(ridge_predictions(x, y, new, 0.3), expected)


def test_the_outer_loss_is_that_of_a_student_solved_by_hand(tmp_path):
    problem = make_problem(tmp_path, "heads")
    real, rows = RealPairs.of(problem), _rows(problem)
    found, _ = ridge_contrastive.rows_loss(problem, RIDGE, 6, real)(rows, 5)
    draw = make_generator(problem.seed, "ridge", 5, 0)
    img, txt = real.sample(RIDGE.real_batch_size, draw)
    parts: list[float] = []
    heads = [Projection(w, 9, dropout=0.0, generator=draw).projection for w in (7, 6)]
    for head, s, new, target_s, target in (
        (heads[0], rows["features"], img, rows["text_embeds"], txt),
        (heads[1], rows["text_embeds"], txt, rows["features"], img),
    ):
        p, p_s = head(new), head(s)
        x, x_s = torch.cat([p, gelu(p)], 1), torch.cat([p_s, gelu(p_s)], 1)
        gram = (x_s - x.mean(0)) @ (x_s - x.mean(0)).T
        gram = gram + RIDGE.ridge * gram.diagonal().mean() * torch.eye(6)
        weights = torch.linalg.inv(gram) @ (target_s - target.mean(0))
        guess = (x - x.mean(0)) @ (x_s - x.mean(0)).T @ weights
        scores = normalize(guess, dim=1) @ normalize(target - target.mean(0), dim=1).T / RIDGE.tau
        own = torch.arange(len(scores))
        parts += [cross_entropy(scores, own).item(), cross_entropy(scores.T, own).item()]
    assert float(found) == pytest.approx(sum(parts) / 4, rel=1e-3)


def test_a_real_batch_holds_different_images_with_captions_of_theirs(tmp_path):
    problem = make_problem(tmp_path, "heads")
    real = RealPairs.of(problem)
    features, texts = real.sample(99, make_generator(0))
    owners = [int((real.features == row).all(1).nonzero()) for row in features]
    assert sorted(owners) == list(range(23))
    for owner, text in zip(owners, texts, strict=True):
        assert any(torch.equal(text, one) for one in real.text_embeds[real.owner == owner])
    assert len(real.sample(7, make_generator(1))[0]) == 7
