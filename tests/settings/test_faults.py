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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train_experts.augment.flip=off", "flip: received 'off': allowed are true and false"),
        ("seed=1_000", "seed: received '1_000': allowed is a whole number"),
        ("train_experts.lr_img=fast", "lr_img: received 'fast': allowed is a number"),
        ("budgets=20, 50", r"budgets: received '20, 50': allowed is a list, such as \[a, b\]"),
        ("train_experts.augment=none", "augment: received 'none': allowed is a mapping, such as"),
        ("report.dataset=7", "dataset: received 7: allowed is a text; quotes make one"),
        ("methods.distillers=lors", r"^methods.distillers: received 'lors'; .*such as \[bi_traj"),
        ("methods.coresets=[random, random]", r"received \['random', 'random'\]; allowed is a"),
        ("distill.options=none", "distill.options: received 'none'; allowed is a mapping of each"),
        ("variant=lora/nope", "received the cell 'nope'; allowed: .*; write lora/[a-z]*, or"),
        ("model.embed_dim=7", "others null; change embed_dim or trainable there or with --set"),
    ],
)
def test_each_kind_of_value_is_told_in_words(setting, message):
    with pytest.raises(ValueError, match=message) as raised:
        params.load([setting])
    assert "Input should be" not in str(raised.value) and len(str(raised.value)) < 600


def test_an_empty_entry_of_a_method_is_an_entry_without_values():
    told = []
    for entry in ("{}", "null"):
        with pytest.raises(ValueError, match="'include_positive' is missing") as raised:
            params.load([f"distill.options.bi_trajectory={entry}"])
        told.append(str(raised.value))
    assert told[0] == told[1]


def test_a_value_that_is_missing_is_told_by_its_name():
    with pytest.raises(ValueError, match=r"received .*, in which \'[a-z_]*\' is missing; give it"):
        params.load(["methods.distillers=[lors]", "distill.options.lors={}"])


def test_the_profile_is_chosen_before_other_settings_wherever_it_stands():
    late = params.load(["seed=3", "budgets=[7]", "profile=flickr8k_small"])
    assert (late.profile, late.general.seed, late.general.budgets) == ("flickr8k_small", 3, (7,))
    assert late == params.load(["profile=flickr8k_small", "seed=3", "budgets=[7]"])
