"""Messages name the place where a user set a value."""

import copy

import pytest

from tasks.settings import params

TREE = params.read_tree()


def refusal(*settings, variant=None):
    with pytest.raises(ValueError) as caught:
        params.load(settings, variant=variant)
    return str(caught.value)


def test_a_shared_option_of_a_method_is_named_where_it_was_set():
    text = refusal("distill.matching.iterations=0")
    assert "profiles.toy.distill.matching.iterations: received 0" in text
    assert text.endswith("; bi_trajectory takes it from distill.matching")
    assert "distill.options" not in text


def test_an_own_option_of_a_method_is_named_in_its_entry():
    text = refusal("distill.options.bi_trajectory.iterations=0")
    assert "profiles.toy.distill.options.bi_trajectory.iterations: received 0" in text
    assert "distill.matching" not in text


@pytest.mark.parametrize("section", ["distill.matching", "distill.options.bi_trajectory"])
def test_options_that_contradict_the_rest_are_named_where_they_were_set(section):
    text = refusal(f"{section}.weights=mass")
    assert f"profiles.toy.{section}.weights" in text
    text = refusal(f"{section}.parts=7")
    assert f"profiles.toy.{section}.parts" in text and "may come from" not in text


def test_an_option_that_a_warm_start_takes_from_its_method_is_named_there():
    warm = "{method: lors, options: {}, step_size_scale: 1.0}"
    chosen = ["methods.distillers=[meta_model]", f"distill.options.meta_model.warm_start={warm}"]
    text = refusal(*chosen, "distill.matching.iterations=0")
    assert "distill.matching.iterations: received 0" in text
    # lors has lr_sim, which nothing around it says
    assert "options.meta_model.warm_start.options.lr_sim: received" in refusal(*chosen)


def test_a_value_of_a_variant_is_told_with_the_cell_that_set_it():
    tree = copy.deepcopy(TREE)
    tree["presets"]["own"] = {
        "title": "x",
        "every": {},
        "cells": {"one": {"distill.matching.lr_img": -1.0, "evaluate.num_eval": 1}},
    }
    with pytest.raises(ValueError, match=r"distill.matching.lr_img is set in the cell own/one of"):
        params.parse(tree, variant="own/one")
    text = refusal(variant="{train_experts.batch_size: 0}")
    assert text.endswith(
        'train_experts.batch_size is set in the settings {"train_experts.batch_size": 0}'
    )


def test_a_refusal_of_something_else_stays_as_it_is():
    assert "distill" not in refusal("train_experts.batch_size=0")
