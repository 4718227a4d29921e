"""Defines and samples the scenes of the toy dataset: one to three objects, their layout, and the
background.

`toy/drawing.py` draws a scene, `toy/captions.py` puts it into words, `datasets/toy.py` is the
dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from tasks.core.foundations.records import SPLITS
from tasks.core.foundations.seeding import make_generator

T = TypeVar("T")

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "turquoise", "pink")
SIZES = ("large", "small")
PATTERNS = ("solid", "striped", "dotted")
BACKGROUNDS = ("white", "black", "grey", "beige", "brown", "navy", "mint", "lavender")
# Layouts by number of objects. A scene lists its objects in the order of its layout, so that equal
# pictures have equal scenes. beside: left, right; stacked: above, below; inside: inner, outer; row:
# left to right; column: top to bottom; triangle: top, lower left, lower right.
LAYOUTS = {1: ("single",), 2: ("beside", "stacked", "inside"), 3: ("row", "column", "triangle")}
# Shapes with room for another object inside
_OUTER_SHAPES = ("circle", "square", "diamond", "heart")


@dataclass(frozen=True)
class ToyObject:
    """One object; the values come from `SHAPES`, `COLOURS`, `SIZES` and `PATTERNS`."""

    shape: str
    colour: str
    size: str
    pattern: str


@dataclass(frozen=True)
class Scene:
    """Objects in the order of the layout (see `LAYOUTS`), and one of `BACKGROUNDS`. Equal scenes
    are the same description.
    """

    objects: tuple[ToyObject, ...]
    layout: str
    background: str


def sample_scenes(seed: int, counts: dict[str, int]) -> dict[str, list[Scene]]:
    """Return `counts[split]` scenes for each split, no scene twice, not even in two splits.

    Random from the generators (`seed`, "toy_scenes", split). Test and validation are drawn first,
    so their scenes do not change with the number of training images.
    """
    seen: set[Scene] = set()
    scenes: dict[str, list[Scene]] = {}
    for split in reversed(SPLITS):
        generator = make_generator(seed, "toy_scenes", split)
        # A dictionary keeps the order of drawing, which a set does not
        chosen: dict[Scene, None] = {}
        while len(chosen) < counts[split]:
            scene = _draw_scene(generator)
            if scene not in seen:
                chosen[scene] = None
        seen.update(chosen)
        scenes[split] = list(chosen)
    return {split: scenes[split] for split in SPLITS}


def pick(options: Sequence[T], generator: torch.Generator) -> T:
    """Return one of the options, uniformly."""
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def _draw_scene(generator: torch.Generator) -> Scene:
    num_objects = pick((1, 2, 3), generator)
    layout = pick(LAYOUTS[num_objects], generator)
    # The colours of a scene differ, so that a colour tells which object is meant
    order = torch.randperm(len(COLOURS), generator=generator)[:num_objects]
    objects = [
        ToyObject(
            pick(SHAPES, generator),
            COLOURS[int(colour)],
            pick(SIZES, generator),
            pick(PATTERNS, generator),
        )
        for colour in order
    ]
    if layout == "inside":
        # Sizes are fixed, because the outer object has to be the larger one
        inner, outer = objects
        objects = [
            ToyObject(inner.shape, inner.colour, "small", inner.pattern),
            ToyObject(pick(_OUTER_SHAPES, generator), outer.colour, "large", outer.pattern),
        ]
    return Scene(tuple(objects), layout, pick(BACKGROUNDS, generator))
