"""Makes toy scenes from a seed: shapes on plain backgrounds, with captions in words.

They are for demonstrations and tests without a download. Scenes, drawing and wording are in
`toy/scenes.py`, `toy/drawing.py` and `toy/captions.py`. Each scene is there once in all splits.
Cost: about 1.5 ms an image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image

from tasks.core.data.annotations import file_digest, text_digest
from tasks.core.data.left_out import LeftOut
from tasks.core.data.toy.captions import describe
from tasks.core.data.toy.drawing import draw_scene
from tasks.core.data.toy.scenes import Scene, sample_scenes
from tasks.core.foundations.records import ImageCaptions
from tasks.core.foundations.section import Range, Section
from tasks.core.foundations.seeding import make_generator


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """What to render.

    Attributes:
        seed: of scenes, drawing and wording.
        num_train, num_val, num_test: images of each split.
        image_size: side of the rendered pictures, pixels; `prepare_data` resamples them to its own
            size.
        captions_per_image: captions of each image, each in another style.
    """

    seed: Annotated[int, Range(ge=0)]
    num_train: Annotated[int, Range(ge=1, le=1_000_000, unit="images")]
    num_val: Annotated[int, Range(ge=1, le=1_000_000, unit="images")]
    num_test: Annotated[int, Range(ge=1, le=1_000_000, unit="images")]
    image_size: Annotated[int, Range(ge=32, le=512, unit="px")]
    captions_per_image: Annotated[int, Range(ge=1, le=8, unit="captions")]


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Yield the examples of train, val and test. A picture is drawn when its `load` is called.
    Nothing is left out.

    Random from generators named by split and number, so that pictures do not depend on the order in
    which they are drawn.
    """
    counts = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    for split, scenes in sample_scenes(config.seed, counts).items():
        for number, scene in enumerate(scenes):
            captions = describe(
                scene,
                config.captions_per_image,
                make_generator(config.seed, "toy_captions", split, number),
            )
            load = functools.partial(_draw, scene, config, split, number)
            yield ImageCaptions(f"{split}/{number:06d}.png", split, captions, load)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the parameters: they are the whole input, and no file is read."""
    return text_digest(asdict(config))


def _draw(scene: Scene, config: Config, split: str, number: int) -> Image.Image:
    return draw_scene(
        scene, config.image_size, make_generator(config.seed, "toy_drawing", split, number)
    )
