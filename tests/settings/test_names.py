"""Names that become folders are refused when they lead elsewhere; typos get the nearest name."""

import copy

import pytest

from tasks.core.foundations.names import check_name, hint
from tasks.settings import params

TREE = params.read_tree()
WRONG = ["../../x", "/tmp/x", "..", ".x", "a/b", "a\\b", "a b", "", "a\n", "\x1b[2J", "a" * 101, 5]


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_is_unfit_for_a_folder_is_refused(name):
    with pytest.raises(ValueError, match=r"here: received the set .*allowed are at most 100"):
        check_name(name, "set", "here")


@pytest.mark.parametrize("name", ["toy", "flickr8k_full", "a-b.c", "7", "_x"])
def test_a_plain_name_is_taken(name):
    check_name(name, "set", "here")


@pytest.mark.parametrize("name", WRONG)
def test_a_profile_whose_name_leads_elsewhere_is_refused(name):
    tree = copy.deepcopy(TREE)
    tree["profiles"][name] = tree["profiles"]["toy"]
    tree["profile"] = name
    with pytest.raises(ValueError, match="profiles: received the profile"):
        params.parse(tree)


@pytest.mark.parametrize("name", WRONG)
def test_a_method_or_an_encoder_whose_name_leads_elsewhere_is_refused(name):
    for kind, section in (("coresets", "select_coresets"), ("distillers", "distill")):
        tree = copy.deepcopy(TREE)
        tree["methods"][kind] = [*tree["methods"][kind], name]
        tree["profiles"]["toy"][section]["options"][name] = {}
        with pytest.raises(ValueError, match="unknown"):
            params.parse(tree)
    tree = copy.deepcopy(TREE)
    tree["profiles"]["toy"]["evaluate"]["cross_architecture"] = {name: {}}
    with pytest.raises(ValueError, match="received the student"):
        params.parse(tree)


@pytest.mark.parametrize("name", ["..", "../x", "a b", ""])
def test_an_encoder_whose_folder_would_lead_elsewhere_is_refused(name):
    tree = copy.deepcopy(TREE)
    options = {
        "name": name,
        "weights": "/w",
        "pooling": "cls",
        "is_normalised": True,
        "max_tokens": 32,
        "batch_size": 4,
        "dtype": "float32",
    }
    tree["profiles"]["toy"]["embed_captions"] = {"text_encoder": "transformers", "options": options}
    with pytest.raises(ValueError, match=r"embed_captions\.options\.name: received the encoder"):
        params.parse(tree)


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "x y"])
def test_a_preset_or_a_cell_whose_name_leads_elsewhere_is_refused(name):
    for place in ("preset", "cell"):
        tree = copy.deepcopy(TREE)
        body = {"title": "x", "every": {}, "cells": {name if place == "cell" else "x": {}}}
        tree["presets"][name if place == "preset" else "own"] = body
        with pytest.raises(ValueError, match="since it names a folder"):
            params.parse(tree, variant="main/all")


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("profile=toi", "toy"),
        ("variant=mian/x", "main"),
        ("train_expert.lr_img=1", "train_experts"),
        ("train_experts.lr_imgs=1", "lr_img"),
        ("methods.distillers=[bi_trajektory]", "bi_trajectory"),
        ("model.image_encoder=tim", "timm"),
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
def test_a_typo_is_answered_with_the_nearest_name(setting, meant):
    with pytest.raises(ValueError, match=rf"\(did you mean '{meant}'\?\)"):
        params.load([setting])


def test_a_name_that_is_near_nothing_gets_no_hint():
    assert hint("xyz", ["toy", "coco"]) == "" == hint("toy", [])
