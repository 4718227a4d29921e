"""Puts toy scenes into words, in eight styles, with synonyms and different detail.

Every caption names colour and shape of every object. Sizes, patterns, background and layout are
left out in some styles, as people do: see the table `STYLES`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tasks.core.data.toy.scenes import Scene, ToyObject, pick

WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "diamond": ("diamond", "rhombus"),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "heart": ("heart",),
    "purple": ("purple", "violet"),
    "turquoise": ("turquoise", "cyan"),
    "large": ("large", "big"),
    "small": ("small", "little"),
    "solid": ("solid", "plain"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "grey": ("grey", "gray"),
    "navy": ("navy", "dark navy"),
}
_NUMBERS = {1: "One shape", 2: "Two shapes", 3: "Three shapes"}
# Layout -> (sentences in the order of the objects, sentences from the other end). {0} is the first
# object of the scene.
_RELATIONS = {
    "single": (("{0}",), ("{0}",)),
    "beside": (
        ("{0} to the left of {1}", "{0} on the left and {1} on the right"),
        ("{1} to the right of {0}",),
    ),
    "stacked": (("{0} above {1}", "{0} over {1}"), ("{1} below {0}", "{1} under {0}")),
    "inside": (("{0} inside {1}", "{0} within {1}"), ("{1} around {0}", "{1} surrounding {0}")),
    "row": (
        ("{0}, {1} and {2} in a row", "{0}, {1} and {2} from left to right"),
        ("{2}, {1} and {0} from right to left",),
    ),
    "column": (
        ("{0}, {1} and {2} in a column", "{0}, {1} and {2} from top to bottom"),
        ("{2}, {1} and {0} from bottom to top",),
    ),
    "triangle": (
        ("{0} above {1} and {2}", "{0} with {1} and {2} below"),
        ("{1} and {2} under {0}",),
    ),
}


@dataclass(frozen=True)
class Style:
    """One way to caption: a frame, and what the clause inside it tells.

    Attributes:
        frame: text with `{clause}`, and perhaps `{background}` and `{number}`.
        has_sizes, has_patterns, has_layout: whether the clause tells them.
        is_reversed: the layout is told from its other end.
    """

    frame: str
    has_sizes: bool = True
    has_patterns: bool = True
    has_layout: bool = True
    is_reversed: bool = False


STYLES = (
    Style("{clause} on a {background} background."),
    Style("There is {clause}, all on {background}.", is_reversed=True),
    Style("A picture of {clause}."),
    Style("On a {background} canvas we see {clause}.", has_sizes=False),
    Style("{number} on {background}: {clause}.", has_layout=False),
    Style("{clause}, drawn over a {background} surface.", has_patterns=False),
    Style("The {background} image shows {clause}.", has_patterns=False, is_reversed=True),
    Style(
        "Somebody painted {clause} in front of a {background} wall.",
        has_sizes=False,
        is_reversed=True,
    ),
)


def describe(scene: Scene, num_captions: int, generator: torch.Generator) -> tuple[str, ...]:
    """Return `num_captions` (at most `len(STYLES)`) captions of the scene, each in another style;
    random from `generator`.
    """
    order = torch.randperm(len(STYLES), generator=generator)[:num_captions].tolist()
    return tuple(_caption(scene, STYLES[index], generator) for index in order)


def _caption(scene: Scene, style: Style, generator: torch.Generator) -> str:
    phrases = [_phrase(item, style, generator) for item in scene.objects]
    if style.has_layout:
        clause = pick(_RELATIONS[scene.layout][style.is_reversed], generator).format(*phrases)
    else:
        # "a", "a and b", "a, b and c".
        first = [", ".join(phrases[:-1])] if len(phrases) > 1 else []
        clause = " and ".join([*first, phrases[-1]])
    text = style.frame.format(
        clause=clause, background=_word(scene.background, generator), number=_NUMBERS[len(phrases)]
    )
    return text[0].upper() + text[1:]


def _phrase(item: ToyObject, style: Style, generator: torch.Generator) -> str:
    """Return "an orange star" or "a big striped red box"."""
    # A list times False is empty
    attributes = (
        [item.size] * style.has_sizes
        + [item.pattern] * style.has_patterns
        + [item.colour, item.shape]
    )
    text = " ".join(_word(attribute, generator) for attribute in attributes)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _word(value: str, generator: torch.Generator) -> str:
    return pick(WORDS.get(value, (value,)), generator)
