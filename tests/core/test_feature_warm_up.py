"""Features are distilled before pixels, pixels are fitted to them, and the whole resumes to the same bytes from every part."""

import dataclasses

import pytest
import torch

from tasks.core import distillation, feature_warm_up
from tasks.core.distillers import lors
from tasks.core.feature_warm_up import fit
from tasks.core.matching_config import check_matching
from tests.core.small_problem import MATCHING, make_encoder, make_problem

CONFIG = dataclasses.replace(
    lors.Config(**MATCHING, loss="ence", lr_sim=0.02, sim_rank=2, sim_alpha=1.0, is_budget_compensated=False),
    iterations=4, feature_iterations=4, fit_iterations=3, checkpoint_every=2,
)  # fmt: skip


class Killed(Exception):
    pass


def _run(problem, checkpoint=None, num_pairs=6, **changes):
    return lors.distill(problem, dataclasses.replace(CONFIG, **changes), num_pairs, tau=0.07, checkpoint=checkpoint)


def test_fitted_pixels_reach_a_feature_that_an_image_can_have():
    module = make_encoder().module.requires_grad_(False)
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    target = module(images.flip(0) * 0.5)
    before = (module(images) - target).norm(dim=1) / target.norm(dim=1)
    fitted = fit(module, images, target, dataclasses.replace(CONFIG, fit_iterations=60, lr_fit=0.05, micro_batch=2))
    after = (module(fitted) - target).norm(dim=1) / target.norm(dim=1)
    assert float(after.max()) < 0.1 * float(before.mean())
    whole = fit(module, images, target, dataclasses.replace(CONFIG, fit_iterations=3, micro_batch=None))
    assert torch.allclose(whole, fit(module, images, target, dataclasses.replace(CONFIG, fit_iterations=3, micro_batch=2)), atol=1e-5)


def test_pixel_iterations_begin_below_where_they_would_without_warm_up(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {"max_start_epoch": 1, "mini_batch_size": 6, "step_size_img": 0.03, "step_size_txt": 0.03, "iterations": 3, "lr_fit": 0.05}
    warm = _run(problem, **change, feature_iterations=20, fit_iterations=40)
    cold = _run(problem, **change, feature_iterations=0)
    assert sum(row["loss"] for row in warm.history) < 0.95 * sum(row["loss"] for row in cold.history)
    assert len(warm.fit_errors) == 6 and 0.0 < max(warm.fit_errors) < 1.0 and cold.fit_errors is None
    assert torch.equal(warm.start.images, cold.start.images), "the start is what was drawn, not what was fitted"


@pytest.mark.parametrize("save", range(1, 6))
def test_a_run_killed_after_any_checkpoint_ends_with_the_same_bytes(tmp_path, monkeypatch, save):
    """Features, each part of the fit, the beginning and the middle of the pixel iterations."""
    monkeypatch.setattr(feature_warm_up, "_TOGETHER", 4)  # two parts
    problem, file = make_problem(tmp_path, "heads"), tmp_path / "c.safetensors"
    expected = _run(problem)
    write, count = distillation.save_checkpoint, 0

    def killing(*given):
        nonlocal count
        write(*given)
        count += 1
        if count == save:
            raise Killed

    monkeypatch.setattr(distillation, "save_checkpoint", killing)
    with pytest.raises(Killed):
        _run(problem, file)
    monkeypatch.setattr(distillation, "save_checkpoint", write)
    got = _run(problem, file)
    assert torch.equal(got.pairs.images, expected.pairs.images) and torch.equal(got.pairs.text_embeds, expected.pairs.text_embeds)
    assert torch.equal(got.pairs.similarity.right, expected.pairs.similarity.right)
    assert got.history == expected.history and got.fit_errors == expected.fit_errors and got.pairs.step_sizes == expected.pairs.step_sizes


def test_a_trained_encoder_and_another_optimiser_are_refused():
    with pytest.raises(ValueError, match=r"here\.feature_iterations: .*received 4 with trainable 'full'.*set feature_iterations: 0"):
        check_matching(CONFIG, 3, (6,), trainable="full", where="here")
    with pytest.raises(ValueError, match=r"optimiser 'sgd'"):
        check_matching(dataclasses.replace(CONFIG, optimiser="sgd"), 3, (6,), trainable="heads", where="here")
