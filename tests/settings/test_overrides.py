"""Values of `--set` are taken as typed; what cannot be read is one message that quotes it."""

import copy
import datetime
import math
from dataclasses import replace

import pytest

from tasks.settings import params
from tasks.settings.overrides import override, value_of

TREE = params.read_tree()


@pytest.mark.parametrize(
    "text",
    [
        "/data/a #b",
        "#b",
        "@x",
        "2020-01-01",
        "&a [*a]",
        "*.tar",
        "!!python/name:os.system",
        "\ta",
        "a: b",
        "- a",
        "C:\\x",
        "1:30",
        "1_000",
        "0x10",
        "yes",
        "%x",
        "`x`",
        "a [b",
        " x ",
        "a\nb",
        "9" * 5000,
    ],
)
def test_text_stays_as_it_was_typed(text):
    assert value_of(text, "here") == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-3", -3),
        ("010", 10),
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("-.5", -0.5),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("'0.9'", "0.9"),
        ('"/a #b"', "/a #b"),
        ("[]", []),
        (" [1, 1e-3, a, '*.tar', 2020-01-01]", [1, 0.001, "a", "*.tar", "2020-01-01"]),
        ("{<<: 3}", {"<<": 3}),
        ("{20: 1e-3, b: [x, {c: ~}]}", {20: 0.001, "b": ["x", {"c": None}]}),
    ],
)
def test_numbers_words_lists_and_mappings_are_read(text, value):
    found = value_of(text, "here")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "[*.tar]",
        "{20: 1, 020: 2}",
        "{20: 1, '20': 2}",
        "{a: {b: 1, b: 2}}",
        "[@x]",
        "[a",
        "{a: [",
        "'a",
        "[a] # b",
        "[a]b",
        "'a' b",
        "[&a [*a, *a]]",
        "{a: &a {b: *a}}",
        "[!!timestamp 2020-01-01]",
        "[!!python/name:os.system ]",
        "[\ta]",
        "{[a]: b}",
        "[\x00]",
        "[" * 20_000,
    ],
)
def test_a_value_that_cannot_be_read_is_one_message_that_quotes_it(text):
    with pytest.raises(ValueError, match=r"the value cannot be read .*allowed are text") as raised:
        override(copy.deepcopy(TREE), f"seed={text}")
    assert repr(f"seed={text}") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_path_and_a_small_number_reach_the_parameters_as_typed():
    chosen = params.load(
        [
            "profile=flickr8k",
            "prepare_data.options.path=/data/a #b",
            "train_experts.lr_img=1e-3",
        ]
    )
    assert (chosen.dataset.config.path, chosen.train_experts.lr_img) == ("/data/a #b", 0.001)


FURTHER = (
    "profile=toy",
    "evaluate.cross_architecture={other: {image_encoder: timm, options: {name: resnet18, weights: "
    "random, kwargs: {}, mean: null, std: null}, trainable: full, lora: null, embed_dim: null, "
    "input_size: null}}",
)
RECIPE = "evaluate.cross_architecture.other.small"


def test_a_further_student_takes_a_value_of_a_recipe_that_it_does_not_name():
    given = [*FURTHER, f"{RECIPE}.lr_img=0.5", f"{RECIPE}.lr_txt=0.25"]
    chosen = params.load(given)
    changed = chosen.students["other"].evaluate
    assert changed.small == replace(chosen.evaluate.small, lr_img=0.5, lr_txt=0.25)
    assert changed.full == chosen.evaluate.full
    whole = params.load([*FURTHER, RECIPE + "={lr_img: 0.5, lr_txt: 0.25}"])
    assert whole.students == chosen.students


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (f"{RECIPE}.lr_im=1.0", "unknown key 'lr_im'.*allowed: num_epochs, batch_size, lr_img"),
        (f"{RECIPE}r.lr_img=1.0", "unknown key 'smallr'.*allowed: small, full, image_encoder"),
        (f"{RECIPE}.lr_img.x=1.0", "unknown key 'x'.*nothing below a value"),
    ],
)
def test_a_further_student_takes_no_other_key(setting, told):
    with pytest.raises(ValueError, match=told):
        params.load([*FURTHER, setting])


KEYS = sorted(
    {
        "profile",
        "profiles",
        "profiles.toy",
        "methods",
        "methods.coresets",
        "methods.distillers",
        "methods.imported",
        *TREE["profiles"]["toy"],
        *(
            f"{section}.{key}"
            for section, body in TREE["profiles"]["toy"].items()
            if isinstance(body, dict)
            for key in body
        ),
    }
)
ODD = ("2020-01-01", "&a [*a]", "[a/b]", "{a: b}", "[[x]]", "{../../x: {}}", "../../x", "1", "~")


@pytest.mark.parametrize("key", KEYS)
def test_no_value_of_any_key_is_anything_but_taken_or_refused(key):
    for text in ODD:
        tree = copy.deepcopy(TREE)
        override(tree, f"{key}={text}")
        try:
            params.parse(tree)
        except ValueError as error:
            assert str(error)


def test_a_date_or_a_list_that_holds_itself_in_the_file_is_refused_with_its_place():
    endless = []
    endless.append(endless)
    for value in (datetime.date(2020, 1, 1), endless):
        tree = copy.deepcopy(TREE)
        tree["profiles"]["toy"]["seed"] = value
        with pytest.raises(
            ValueError, match=r"profiles\.toy: received .*allowed are text, numbers"
        ):
            params.parse(tree)
