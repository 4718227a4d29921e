"""Faults of sections name what is allowed; test_names.py has the names that were meant."""

import pytest

from tasks.settings import params
from tasks.settings.files import keys_of


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
