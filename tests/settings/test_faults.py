"""Faults of sections: mistyped choices and keys are answered with the name that was meant."""

import pytest

from tasks.settings import params
from tasks.settings.files import keys_of


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("distill.matching.optimiser=adm", "adam"),
        ("distill.matching.init_image=kmeans", "k_means"),
        ("model.trainable=head", "heads"),
        ("evaluate.protocol=strickt", "strict"),
        ("train_experts.storage=float23", "float32"),
        ("distill.matching.lr_decay=cosin", "cosine"),
        ("evaluate={num_evals: 5, protocol: strict, cross_architecture: {}}", "num_eval"),
        ("train_experts.augment={crop_scales: 1.0}", "crop_scale"),
        ("model={image_encoder: timm, options: {nam: x}}", "name"),
    ],
)
def test_a_mistyped_choice_or_key_is_answered_with_the_one_that_was_meant(setting, meant):
    with pytest.raises(ValueError, match=rf"\(did you mean '{meant}'\?\)"):
        params.load([setting])


def test_a_choice_that_is_near_nothing_is_answered_with_all_of_them():
    with pytest.raises(
        ValueError, match=r"optimiser.*received 'xyz': Input should be 'sgd' or 'adam'"
    ):
        params.load(["distill.matching.optimiser=xyz"])


def test_an_unknown_key_is_answered_with_all_that_are_known():
    with pytest.raises(ValueError, match=r"unknown key 'xyz'; allowed: .*crop_scale, flip"):
        params.load(["train_experts.augment={xyz: 1.0}"])


def test_a_section_says_which_keys_are_unknown_and_which_are_missing():
    with pytest.raises(
        ValueError, match=r"unknown: tau2 \(did you mean 'tau'\?\), x; missing: tau, lr$"
    ):
        keys_of({"tau2": 1, "x": 2, "dim": 3}, ("tau", "dim", "lr"), "here")
