"""Draws toy scenes: saturated shapes on a plain background. They are drawn at four times the size
and averaged down, which makes edges smooth.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from PIL import Image, ImageChops, ImageDraw

from tasks.core.data.toy.scenes import Scene, ToyObject

RGB: dict[str, tuple[int, int, int]] = {
    "red": (225, 20, 25),
    "green": (15, 150, 40),
    "blue": (25, 60, 235),
    "yellow": (255, 225, 0),
    "orange": (255, 125, 0),
    "purple": (125, 20, 165),
    "turquoise": (0, 205, 205),
    "pink": (255, 105, 190),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "beige": (238, 215, 170),
    "brown": (105, 60, 25),
    "navy": (15, 20, 85),
    "mint": (180, 240, 205),
    "lavender": (205, 190, 245),
}
# Patterns are drawn dark on these light colours and light on all others. Stripes and dots are then
# visible at 5 pixels.
_DARK_INK = ("yellow", "turquoise", "pink", "orange")
_SUPERSAMPLING = 4
# Centres of the objects and radius of a large one, as shares of the side of the picture. A small
# one has 0.65 of this radius.
_PLACES: dict[str, tuple[tuple[tuple[float, float], ...], float]] = {
    "single": (((0.5, 0.5),), 0.40),
    "beside": (((0.26, 0.5), (0.74, 0.5)), 0.215),
    "stacked": (((0.5, 0.26), (0.5, 0.74)), 0.215),
    "inside": (((0.5, 0.5), (0.5, 0.5)), 0.43),
    "row": (((0.18, 0.5), (0.5, 0.5), (0.82, 0.5)), 0.155),
    "column": (((0.5, 0.18), (0.5, 0.5), (0.5, 0.82)), 0.155),
    "triangle": (((0.5, 0.26), (0.26, 0.74), (0.74, 0.74)), 0.2),
}
_INNER_RADIUS = 0.19  # of the inner object of the layout "inside"


def draw_scene(scene: Scene, image_size: int, generator: torch.Generator) -> Image.Image:
    """Return the scene as an RGB picture of `image_size` x `image_size` pixels.

    Position (up to 2 % of the side) and radius (up to 10 %) of each object vary with `generator`.
    """
    side = image_size * _SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), RGB[scene.background])
    centres, radius = _PLACES[scene.layout]
    jitter = torch.rand(len(scene.objects), 3, generator=generator).tolist()
    # In reverse, since "inside" lists the inner object first, and it has to be drawn last
    for item, (x, y), (dx, dy, shrink) in reversed(
        list(zip(scene.objects, centres, jitter, strict=True))
    ):
        large = _INNER_RADIUS if scene.layout == "inside" and item is scene.objects[0] else radius
        is_reduced = item.size == "small" and scene.layout != "inside"
        extent = side * large * (0.65 if is_reduced else 1.0) * (1.0 - 0.1 * shrink)
        _draw_object(
            canvas, item, (side * (x + 0.04 * (dx - 0.5)), side * (y + 0.04 * (dy - 0.5))), extent
        )
    return canvas.reduce(_SUPERSAMPLING)


def _draw_object(
    canvas: Image.Image, item: ToyObject, centre: tuple[float, float], radius: float
) -> None:
    size = 2 * math.ceil(radius) + 1
    corner = (round(centre[0] - size / 2), round(centre[1] - size / 2))
    canvas.paste(RGB[item.colour], corner, _mask(item.shape, size, radius, 1.0))
    if item.pattern != "solid":
        # The pattern stays inside a smaller copy of the shape: the outline keeps the colour on
        # every background.
        ink = RGB["black"] if item.colour in _DARK_INK else RGB["white"]
        canvas.paste(
            ink,
            corner,
            ImageChops.multiply(
                _mask(item.shape, size, radius, 0.82), _pattern(item.pattern, size, radius)
            ),
        )


def _mask(shape: str, size: int, radius: float, scale: float) -> Image.Image:
    mask = Image.new("L", (size, size))
    pen = ImageDraw.Draw(mask)
    middle = size / 2
    if shape == "ring":
        # A scaled ring would keep its hole: its margin is cut from both edges instead
        margin = 0.09 if scale < 1.0 else 0.0
        _disc(pen, middle, middle, radius * (1.0 - margin), 255)
        _disc(pen, middle, middle, radius * (0.45 + margin), 0)
    else:
        pen.polygon(
            [
                (middle + radius * scale * x, middle + radius * scale * y)
                for x, y in _outline(shape)
            ],
            fill=255,
        )
    return mask


def _pattern(pattern: str, size: int, radius: float) -> Image.Image:
    layer = Image.new("L", (size, size))
    pen = ImageDraw.Draw(layer)
    # At least 2.5 finished pixels for a stripe or dot; finer ones would average to a flat tint.
    step = max(radius * 0.5, 5.0 * _SUPERSAMPLING)
    num_steps = math.ceil(size / step / 2) + 1
    ticks = [size / 2 + step * index for index in range(-num_steps, num_steps + 1)]
    for y in ticks:
        if pattern == "striped":
            pen.rectangle((0, y - step / 4, size, y + step / 4), fill=255)
        else:
            for x in ticks:
                _disc(pen, x, y, step * 0.3, 255)
    return layer


def _disc(pen: Any, x: float, y: float, radius: float, fill: int) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


@functools.cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Return the corners of a shape within -1..1 in x and y, with y downwards."""
    if shape == "square":
        return ((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86))
    if shape == "diamond":
        return ((0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0))
    if shape == "triangle":
        return ((0.0, -0.95), (1.0, 0.85), (-1.0, 0.85))
    if shape == "cross":
        quarter = ((-0.34, -1.0), (0.34, -1.0), (0.34, -0.34))
        return tuple(_turned(x, y, turn) for turn in range(4) for x, y in quarter)
    angles = [2.0 * math.pi * index / 48 for index in range(48)]
    if shape == "star":
        corners = [(1.0 if index % 2 == 0 else 0.42, math.pi * index / 5) for index in range(10)]
        return tuple(
            (length * math.sin(angle), -length * math.cos(angle)) for length, angle in corners
        )
    if shape == "heart":
        return tuple(
            (
                math.sin(a) ** 3,
                -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a))
                / 16,
            )
            for a in angles
        )
    return tuple((math.sin(angle), math.cos(angle)) for angle in angles)


def _turned(x: float, y: float, quarters: int) -> tuple[float, float]:
    for _ in range(quarters):
        x, y = -y, x
    return x, y
