"""Methods beyond bi-trajectory matching: each learns what it claims, with the exact gradient, and a
new one is one file.
"""

import dataclasses
import sys

import pytest
import torch
from torch.nn.functional import normalize

from tasks.core.distillation import distillers
from tasks.core.distillation.distillers import bi_trajectory, lors, repblend
from tasks.core.distillation.soft_matching import soft_objective
from tasks.core.foundations import plugins
from tasks.core.foundations.seeding import make_generator
from tasks.core.training.losses import info_nce
from tasks.core.training.pair_files import load_pairs, save_pairs
from tasks.core.training.similarity import set_loss
from tasks.core.training.student_losses import soft_contrastive
from tests.core.distillation.method_samples import LORS, REPBLEND, Killed, mean_loss, run_method
from tests.core.hypergradient.small_problem import MATCHING, make_problem
from tests.workspace import ROOT


def test_lors_learns_a_similarity_that_lowers_the_matching_loss(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {"iterations": 30, "max_start_epoch": 1, "step_size_img": 0.03, "step_size_txt": 0.03}
    found, fixed = (
        run_method(lors, problem, LORS, **change),
        run_method(lors, problem, LORS, **change, **{"lr_sim": 1e-9}),
    )
    assert mean_loss(found.history[-10:]) < 0.95 * min(
        mean_loss(found.history[:10]), mean_loss(fixed.history[-10:])
    )
    soft = found.pairs.similarity
    assert found.pairs.loss == "wbce" and soft.alpha == 1.0
    assert float(soft.right.abs().max()) > 0.01 and not torch.equal(soft.diagonal, torch.ones(6))


@pytest.mark.parametrize("loss", ["ence", "bce", "wbce"])
def test_soft_losses_get_the_gradient_of_plain_autograd(tmp_path, loss):
    problem = make_problem(tmp_path, "heads")
    change = {"loss": loss, "iterations": 2, "optimiser": "sgd", "lr_sim": 1.0}
    got, expected = (
        run_method(lors, problem, LORS, engine=engine, **change).pairs
        for engine in ("double_backward", "unroll")
    )
    for name in ("diagonal", "left", "right"):
        a, b = getattr(got.similarity, name), getattr(expected.similarity, name)
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6), name
    assert torch.allclose(got.images, expected.images, atol=1e-5) and torch.allclose(
        got.text_embeds, expected.text_embeds, atol=1e-5
    )


def test_lors_without_similarity_is_bi_trajectory_matching(tmp_path):
    problem = make_problem(tmp_path, "heads")
    hard = run_method(lors, problem, LORS, loss="info_nce", is_budget_compensated=True).pairs
    plain = run_method(
        bi_trajectory, problem, bi_trajectory.Config(**MATCHING, include_positive=True)
    ).pairs
    assert (
        torch.equal(hard.images, plain.images)
        and hard.similarity is None
        and hard.loss == "info_nce"
    )


def test_evaluation_leaves_the_positive_out_where_matching_did(tmp_path):
    problem = make_problem(tmp_path, "heads")
    config = bi_trajectory.Config(**{**MATCHING, "iterations": 1}, include_positive=False)
    save_pairs(tmp_path, run_method(bi_trajectory, problem, config).pairs)
    img, txt = (
        normalize(torch.randn(4, 5, generator=make_generator(0, name)), dim=1) for name in "it"
    )
    found = set_loss(load_pairs(tmp_path), 0.07)(img, txt, torch.arange(4))
    assert torch.equal(found, info_nce(img, txt, tau=0.07, include_positive=False))


def test_one_pair_pays_for_the_similarity_and_options_may_depend_on_the_budget(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {
        "is_budget_compensated": True,
        "sim_rank": {6: 3},
        "lr_sim": {6: 0.02},
        "sim_alpha": {6: 2.0},
        "mini_batch_size": {6: 3},
    }
    pairs = run_method(lors, problem, LORS, iterations=2, **change).pairs
    assert (
        pairs.num_pairs == 5
        and pairs.similarity.right.shape == (5, 3)
        and pairs.similarity.alpha == 2.0
    )
    with pytest.raises(ValueError, match=r"takes 4020 bytes, more than the pair of 792"):
        run_method(lors, problem, LORS, **{**change, "sim_rank": 100})
    with pytest.raises(ValueError, match=r"x\.lr_sim: received \{6: 0\.02\} for 7 pairs"):
        lors.check(
            dataclasses.replace(LORS, lr_sim={6: 0.02}), 3, (6, 7), trainable="full", where="x"
        )
    with pytest.raises(ValueError, match=r"allowed are budgets of at least 3"):
        lors.check(
            dataclasses.replace(LORS, is_budget_compensated=True),
            3,
            (2,),
            trainable="full",
            where="x",
        )


@pytest.mark.parametrize(
    ("change", "pair"),
    [
        # 3 x 8 x 8 pixels, and a text of 6 numbers for each of its images
        ({}, 4 * 192 + 4 * 6),
        ({"storage": "uint8"}, 192 + 2 * 6),
        ({"storage": "uint8", "texts_per_image": 2}, 192 + 2 * 2 * 6),
        ({"storage": "uint8", "picture_size": 4}, 48 + 2 * 6),
        ({"parts": 2, "texts_per_image": 2}, 4 * 192 + 4 * 4 * 2 * 6),
    ],
)
def test_the_pair_that_pays_for_the_similarity_is_counted_in_bytes(tmp_path, change, pair):
    problem = make_problem(tmp_path, "heads")
    config = dataclasses.replace(LORS, is_budget_compensated=True, sim_rank=9999, **change)
    with pytest.raises(ValueError, match=rf"bytes, more than the pair of {pair} that"):
        soft_objective(problem, config, 6, "wbce")
    # (2r + 1) numbers for each of 5 pictures' images: the largest rank that fits
    num_images = 5 * config.parts**2
    rank = (pair // (4 * num_images) - 1) // 2
    assert soft_objective(problem, dataclasses.replace(config, sim_rank=rank), 6, "wbce")
    with pytest.raises(ValueError, match="more than the pair"):
        soft_objective(problem, dataclasses.replace(config, sim_rank=rank + 1), 6, "wbce")


@pytest.mark.parametrize("loss", ["wbce", "ence"])
def test_repblend_mixes_both_modalities_alike_and_is_differentiated_exactly(tmp_path, loss):
    features, texts = torch.arange(12.0).reshape(4, 3), torch.arange(12.0).reshape(4, 3)
    mixed, mixed_texts = repblend.mix(features, texts, make_generator(0))
    assert torch.equal(mixed, mixed_texts) and not torch.equal(mixed, features)
    assert float(mixed.min()) >= 0.0 and float(mixed.max()) <= 11.0
    problem = make_problem(tmp_path, "heads")
    change = {"iterations": 2, "optimiser": "sgd", "loss": loss}
    got, expected = (
        run_method(repblend, problem, REPBLEND, engine=engine, **change).pairs
        for engine in ("double_backward", "unroll")
    )
    assert torch.allclose(got.text_embeds, expected.text_embeds, atol=1e-5) and torch.allclose(
        got.images, expected.images, atol=1e-5
    )
    assert not torch.allclose(
        got.text_embeds, run_method(lors, problem, LORS, **change).pairs.text_embeds, atol=1e-4
    )
    assert got.loss == loss and got.similarity is not None


def test_repblend_refuses_a_trained_encoder():
    with pytest.raises(
        ValueError,
        match=r"here: repblend .*received trainable 'full'; allowed is `heads`.*change "
        r"model\.trainable",
    ):
        repblend.check(REPBLEND, 3, (6,), trainable="full", where="here")


def test_an_interrupted_run_with_similarity_ends_with_the_same_bytes(tmp_path):
    problem = make_problem(tmp_path, "heads")

    def kill(row, iteration):
        if iteration == 8:
            raise Killed

    expected = run_method(repblend, problem, REPBLEND)
    with pytest.raises(Killed):
        run_method(
            repblend,
            problem,
            REPBLEND,
            checkpoint=tmp_path / "c.safetensors",
            log=kill,
        )
    got = run_method(repblend, problem, REPBLEND, checkpoint=tmp_path / "c.safetensors")
    for name in ("diagonal", "left", "right"):
        assert torch.equal(
            getattr(got.pairs.similarity, name), getattr(expected.pairs.similarity, name)
        )
    assert torch.equal(got.pairs.images, expected.pairs.images) and torch.equal(
        got.pairs.text_embeds, expected.pairs.text_embeds
    )
    assert got.history == expected.history and got.pairs.step_sizes == expected.pairs.step_sizes


def test_evaluation_and_student_use_the_same_loss(tmp_path):
    pairs = run_method(lors, make_problem(tmp_path, "heads"), LORS, loss="bce", iterations=3).pairs
    img, txt = (
        torch.nn.functional.normalize(torch.randn(4, 5, generator=make_generator(0, n)), dim=1)
        for n in "it"
    )
    soft, rows = pairs.similarity, torch.tensor([5, 1, 0, 3])
    whole = torch.diag(soft.diagonal) + 0.5 * soft.left @ soft.right.T
    assert float(set_loss(pairs, 0.07)(img, txt, rows)) == pytest.approx(
        float(soft_contrastive("bce", img, txt, whole[rows][:, rows]))
    )


def test_the_method_of_the_readme_is_one_file(tmp_path, monkeypatch):
    text = (ROOT / "tasks" / "README.md").read_text()
    (tmp_path / "direction.py").write_text(text.split("```python\n")[1].split("```")[0])
    monkeypatch.setattr(distillers, "__path__", [*distillers.__path__, str(tmp_path)])
    # Restores the absence afterwards
    monkeypatch.setitem(sys.modules, "tasks.core.distillation.distillers.direction", None)
    del sys.modules["tasks.core.distillation.distillers.direction"]
    module = plugins.load("distillers", "direction")
    change = {
        "iterations": 16,
        "max_start_epoch": 1,
        "mini_batch_size": 6,
        "step_size_img": 0.03,
        "step_size_txt": 0.03,
    }
    found = run_method(module, make_problem(tmp_path, "heads"), module.Config(**MATCHING), **change)
    assert mean_loss(found.history[-4:]) < 0.95 * mean_loss(found.history[:4])
    assert all(
        row["loss"] == pytest.approx(row["loss_img"] + row["loss_txt"], rel=1e-5)
        for row in found.history
    )
