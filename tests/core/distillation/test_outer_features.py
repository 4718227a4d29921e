"""Features in the outer loop: computed once, from views, with some dropped."""

import dataclasses

import pytest
import torch

from tasks.core.distillation.distillers.bi_trajectory import Config, distill
from tasks.core.distillation.matching_config import check_matching
from tasks.core.networks.dual_encoder import drop
from tests.core.hypergradient.small_problem import MATCHING, make_problem

CONFIG = Config(**MATCHING, include_positive=True)


def _run(problem, **changes):
    return distill(problem, dataclasses.replace(CONFIG, **changes), 6)


def test_features_of_images_that_stay_are_computed_once(tmp_path):
    """`optimise: text`: the texts are those of a run that encodes the images in every iteration,
    whatever it draws.
    """
    problem = make_problem(tmp_path, "heads")
    config = dataclasses.replace(CONFIG, optimise="text", optimiser="sgd", iterations=3)
    calls = []
    handle = problem.encoder.module.register_forward_hook(
        lambda module, inputs, found: calls.append(len(inputs[0]))
    )
    texts = _run(
        problem,
        **{field: getattr(config, field) for field in ("optimise", "optimiser", "iterations")},
    ).pairs.text_embeds
    handle.remove()
    assert sum(calls) == 6
    both = distill(
        problem, dataclasses.replace(config, optimise="both", lr_img=1e-30), 6
    ).pairs.text_embeds
    assert torch.allclose(texts, both, atol=1e-6) and not torch.equal(
        texts, _run(problem, iterations=1).initial.text_embeds
    )


def test_views_are_drawn_by_every_student_step_and_need_a_frozen_encoder(tmp_path):
    problem = make_problem(tmp_path, "heads")
    change = {"optimise": "text", "optimiser": "sgd", "iterations": 2}
    calls = []
    handle = problem.encoder.module.register_forward_hook(
        lambda module, inputs, found: calls.append(len(inputs[0]))
    )
    views = _run(problem, **change, num_views=3)
    handle.remove()
    assert sum(calls) == 3 * 6 and torch.equal(views.pairs.images, views.initial.images)
    assert torch.equal(
        views.pairs.text_embeds, _run(problem, **change, num_views=3).pairs.text_embeds
    )
    assert not torch.allclose(
        views.pairs.text_embeds, _run(problem, **change).pairs.text_embeds, atol=1e-6
    )
    with pytest.raises(
        ValueError, match=r"x\.num_views: received 3 with trainable 'full'; allowed is 1, or"
    ):
        check_matching(
            dataclasses.replace(CONFIG, num_views=3, optimise="text"),
            3,
            (6,),
            trainable="full",
            where="x",
        )


def test_images_that_are_optimised_get_new_views_in_every_iteration(tmp_path):
    problem = make_problem(tmp_path, "heads")
    calls = []
    handle = problem.encoder.module.register_forward_hook(
        lambda module, inputs, found: calls.append(inputs[0].detach().clone())
    )
    views = _run(problem, iterations=2, num_views=2, micro_batch=6)
    handle.remove()
    crops = calls[1], calls[5]  # of each iteration: images and crops, forward and back
    assert (
        len(calls) == 8 and torch.equal(calls[1], calls[3]) and not torch.allclose(*crops, atol=0.1)
    )
    again, plain = (
        _run(problem, iterations=2, num_views=2, micro_batch=6),
        _run(problem, iterations=2),
    )
    assert torch.equal(views.pairs.images, again.pairs.images)
    assert not torch.allclose(views.pairs.images, plain.pairs.images, atol=1e-4)


def test_a_view_that_equals_its_image_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tasks.core.distillation.views.crop_and_flip", lambda images, *args, **how: images
    )
    problem = make_problem(tmp_path, "heads")
    one, three = (
        _run(
            problem, optimise="text", optimiser="sgd", iterations=2, num_views=count
        ).pairs.text_embeds
        for count in (1, 3)
    )
    assert torch.allclose(one, three, atol=1e-7)


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_every_engine_drops_the_same_features(tmp_path, trainable):
    problem = make_problem(tmp_path, trainable)
    change = {"iterations": 1, "optimiser": "sgd", "feature_dropout": 0.5}
    engines = ("unroll", "double_backward", "forward_over_reverse")
    found = [_run(problem, **change, engine=engine) for engine in engines]
    for other in found[1:]:
        assert torch.allclose(other.pairs.images, found[0].pairs.images, atol=1e-6)
        assert torch.allclose(other.pairs.text_embeds, found[0].pairs.text_embeds, atol=1e-6)
    assert not torch.equal(
        _run(problem, iterations=1, optimiser="sgd").pairs.text_embeds, found[0].pairs.text_embeds
    )


def test_dropout_keeps_the_mean_and_zeroes_its_share():
    features = torch.rand(200, 500, generator=torch.Generator().manual_seed(0)) + 0.5
    dropped = drop(features, 0.3, torch.Generator().manual_seed(1))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(float(features.mean()), rel=0.01)
    kept = dropped != 0
    assert torch.allclose(dropped[kept], features[kept] / 0.7)
