"""The toy dataset: distinct scenes, differently worded captions, and the same bytes for the same
seed.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from tasks.core.data.datasets import toy
from tasks.core.data.toy.captions import STYLES, WORDS, describe
from tasks.core.data.toy.drawing import RGB, draw_scene
from tasks.core.data.toy.scenes import (
    BACKGROUNDS,
    COLOURS,
    LAYOUTS,
    PATTERNS,
    SHAPES,
    SIZES,
    Scene,
    ToyObject,
    sample_scenes,
)
from tasks.core.foundations.seeding import make_generator
from tests.core.data.caption_samples import read

CONFIG = toy.Config(
    seed=3, num_train=40, num_val=7, num_test=9, image_size=64, captions_per_image=5
)


def _object(**changes):
    return replace(ToyObject("circle", "red", "large", "solid"), **changes)


def test_no_scene_is_there_twice_in_one_split_or_in_two():
    scenes = sample_scenes(0, {"train": 3000, "val": 200, "test": 300})
    assert {split: len(items) for split, items in scenes.items()} == {
        "train": 3000,
        "val": 200,
        "test": 300,
    }
    assert len({scene for items in scenes.values() for scene in items}) == 3500


def test_every_value_occurs_and_colours_of_a_scene_differ():
    scenes = sample_scenes(0, {"train": 500, "val": 1, "test": 1})["train"]
    items = [item for scene in scenes for item in scene.objects]
    for attribute, values in (
        ("shape", SHAPES),
        ("colour", COLOURS),
        ("size", SIZES),
        ("pattern", PATTERNS),
    ):
        assert {getattr(item, attribute) for item in items} == set(values)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.layout for scene in scenes} == {
        layout for layouts in LAYOUTS.values() for layout in layouts
    }
    assert all(
        len({item.colour for item in scene.objects}) == len(scene.objects) for scene in scenes
    )


def test_the_same_seed_gives_the_same_examples_and_another_does_not():
    first, second, other = (
        read(toy, config) for config in (CONFIG, CONFIG, replace(CONFIG, seed=4))
    )
    # Loaded in opposite orders: a picture depends on its number, not on the order of drawing.
    pictures = [np.asarray(example.load()) for example in reversed(first)][::-1]
    assert [(e.name, e.split, e.captions) for e in first] == [
        (e.name, e.split, e.captions) for e in second
    ]
    assert all(
        np.array_equal(picture, np.asarray(example.load()))
        for picture, example in zip(pictures, second, strict=True)
    )
    assert [e.captions for e in first] != [e.captions for e in other]
    assert (
        toy.raw_digest(CONFIG)
        == toy.raw_digest(replace(CONFIG))
        != toy.raw_digest(replace(CONFIG, seed=4))
    )


def test_more_training_images_leave_the_test_split_as_it_is():
    one, two = (read(toy, replace(CONFIG, num_train=count)) for count in (40, 60))
    assert [e.captions for e in one if e.split == "test"] == [
        e.captions for e in two if e.split == "test"
    ]


def test_pictures_are_rgb_squares_of_the_size_and_no_two_are_equal():
    examples = read(toy, CONFIG)
    pictures = [example.load() for example in examples]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (64, 64))}
    assert len({picture.tobytes() for picture in pictures}) == len(examples) == 56
    assert len({example.name for example in examples}) == 56


def test_captions_of_an_image_are_all_different_and_name_colour_and_shape():
    scenes = sample_scenes(1, {"train": 60, "val": 1, "test": 1})["train"]
    for number, scene in enumerate(scenes):
        captions = describe(scene, len(STYLES), make_generator(1, number))
        frames = {re.sub(r"[^a-z ]", "", caption.lower()) for caption in captions}
        assert len(set(captions)) == len(frames) == len(STYLES)
        for caption in captions:
            for value in [value for item in scene.objects for value in (item.shape, item.colour)]:
                assert any(word in caption.lower() for word in WORDS.get(value, (value,))), (
                    caption,
                    value,
                )


def test_size_pattern_and_background_are_told_by_most_styles_but_not_by_all():
    told = [
        sum(style.has_sizes for style in STYLES),
        sum(style.has_patterns for style in STYLES),
        sum("{background}" in style.frame for style in STYLES),
    ]
    assert all(len(STYLES) / 2 < count < len(STYLES) for count in told)


def test_layout_puts_the_objects_where_the_words_say():
    left, right = _object(colour="red"), _object(colour="blue", shape="square")
    for layout, axis in (("beside", 1), ("stacked", 0)):
        pixels = np.asarray(
            draw_scene(Scene((left, right), layout, "white"), 64, make_generator(0))
        ).astype(int)
        centres = [
            np.argwhere((abs(pixels - RGB[item.colour])).sum(-1) < 30).mean(0)[axis]
            for item in (left, right)
        ]
        assert centres[0] + 20 < centres[1]
    inside = np.asarray(
        draw_scene(Scene((_object(size="small"), right), "inside", "white"), 64, make_generator(0))
    )
    assert (
        tuple(inside[32, 32]) == RGB["red"]
        and tuple(inside[32, 14]) == RGB["blue"]
        and tuple(inside[0, 0]) == RGB["white"]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_large_is_larger_than_small_and_patterns_show(shape):
    def coloured(**changes):
        scene = Scene((_object(shape=shape, **changes),), "single", "grey")
        pixels = np.asarray(draw_scene(scene, 64, make_generator(0))).astype(int)
        return int(((abs(pixels - RGB["red"])).sum(-1) < 60).sum())

    assert coloured() > 1.8 * coloured(size="small") > 150
    assert (
        coloured(pattern="striped") < 0.8 * coloured()
        and coloured(pattern="dotted") < 0.85 * coloured()
    )
