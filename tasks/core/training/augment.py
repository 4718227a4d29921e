"""Augments training images in batches (METHOD 3): RandomResizedCrop, flip and RandAugment.

All draws come from the generator of the caller, so equal seeds give equal batches on one device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from tasks.core.foundations.section import Range, Section


@dataclass(frozen=True, kw_only=True)
class AugmentSection(Section):
    """Augmentation of training images (METHOD 3), drawn per batch from the trainer's generator.

    Attributes:
        crop_scale: smallest area of RandomResizedCrop as a fraction; 1.0 switches the crop off.
        flip: mirror half of the images.
        randaugment_ops, randaugment_magnitude: RandAugment(ops, magnitude of 10); 0 operations
            switch it off.
    """

    crop_scale: Annotated[float, Range(gt=0.0, le=1.0)]
    flip: bool
    randaugment_ops: Annotated[int, Range(ge=0, le=10)]
    randaugment_magnitude: Annotated[int, Range(ge=0, le=10)]

    @property
    def is_off(self) -> bool:
        """Whether images pass unchanged."""
        return self.crop_scale == 1.0 and not self.flip and self.randaugment_ops == 0


# Images pass as they are stored
AS_STORED = AugmentSection(crop_scale=1.0, flip=False, randaugment_ops=0, randaugment_magnitude=0)


_WITHOUT_SIGN = ("identity", "autocontrast", "equalize")
# As in ALBEF and BLIP, without operations on colours: a caption that says a red ball must stay true
_OPERATIONS = (
    *_WITHOUT_SIGN,
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
)
_MAX_MAGNITUDE = 10


def augment(images: Tensor, section: AugmentSection, generator: torch.Generator) -> Tensor:
    """Return augmented (B, H, W, 3) uint8 images of the same shape on the same device.

    Args:
        images: (B, H, W, 3) uint8, not modified.
        section: what to apply, see `AugmentSection`.
        generator: a CPU generator; source of all draws.
    """
    if section.is_off:
        return images
    # (B, 3, H, W): the operations of torchvision want channels first
    images = images.permute(0, 3, 1, 2)
    if section.crop_scale < 1.0 or section.flip:
        images = (
            crop_and_flip(images.float(), section.crop_scale, generator, flip=section.flip)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
        )
    for _ in range(section.randaugment_ops):
        images = _randaugment(images, section.randaugment_magnitude, generator)
    return images.permute(0, 2, 3, 1).contiguous()


def crop_and_flip(
    images: Tensor, scale: float, generator: torch.Generator, *, flip: bool
) -> Tensor:
    """Return (B, C, H, W) float images under RandomResizedCrop and a mirror, as one affine
    resampling (bilinear).

    Args:
        scale: smallest share of the area that a crop window covers, 0..1. The aspect ratio of a
            window is 3/4..4/3.
        generator: a CPU generator; source of all draws.
        flip: mirror each image with probability 1/2.
    """
    # Columns: area, aspect ratio, place in x, place in y, mirror
    draws = torch.rand(len(images), 5, generator=generator)
    area = scale + (1.0 - scale) * draws[:, 0]
    # Uniform in the logarithm, so that 3/4 and 4/3 are equally likely
    ratio = torch.exp((2.0 * draws[:, 1] - 1.0) * torch.log(torch.tensor(4.0 / 3.0)))
    # The sides sqrt(area * ratio) and sqrt(area / ratio) are at most 1 for a ratio between area and
    # 1 / area. A window that is too long keeps its area and gets another shape.
    ratio = torch.minimum(torch.maximum(ratio, area), 1.0 / area)
    height, width = (area / ratio).sqrt(), (area * ratio).sqrt()
    mirror = torch.where((draws[:, 4] < 0.5) & torch.tensor(flip), -1.0, 1.0)
    zero = torch.zeros_like(area)
    # A 2 x 3 matrix per image, row by row. It maps output coordinates in -1..1 to a window of
    # relative size (width, height), around a centre that keeps it inside the image.
    rows = [
        width * mirror,
        zero,
        (2 * draws[:, 2] - 1) * (1 - width),
        zero,
        height,
        (2 * draws[:, 3] - 1) * (1 - height),
    ]
    grid = functional.affine_grid(
        torch.stack(rows, 1).view(-1, 2, 3).to(images.device),
        list(images.shape),
        align_corners=False,
    )
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _randaugment(images: Tensor, magnitude: int, generator: torch.Generator) -> Tensor:
    """Apply one random operation of RandAugment (Cubuk et al., 2020) to each image, with a random
    sign if the operation has one.

    Images with the same operation and sign are computed together. A call per image would leave a
    GPU waiting for Python.
    """
    chosen = torch.randint(len(_OPERATIONS), (len(images),), generator=generator)
    is_positive = torch.rand(len(images), generator=generator) >= 0.5
    # Group 2 i + 1 is operation i with sign +, group 2 i with sign -. Operations without a sign,
    # the first of the list, use only one of their two groups.
    groups = 2 * chosen + (is_positive & (chosen >= len(_WITHOUT_SIGN)))
    # Sorted on the CPU and moved once, so that no group waits for the device.
    sizes = groups.bincount(minlength=2 * len(_OPERATIONS)).tolist()
    members = groups.argsort(stable=True).to(images.device).split(sizes)
    result = images.clone(memory_format=torch.contiguous_format)
    level = magnitude / _MAX_MAGNITUDE
    for group, rows in enumerate(members):
        operation, sign = _OPERATIONS[group // 2], 1.0 if group % 2 else -1.0
        if operation != "identity" and len(rows):
            result[rows] = _apply(operation, images[rows], level, sign)
    return result


def _apply(operation: str, image: Tensor, level: float, sign: float) -> Tensor:
    """Apply one operation to each image of (..., 3, H, W) uint8.

    Args:
        level: magnitude as a share of the largest, 0..1.
        sign: direction of the change, -1 or 1.
    """
    from torchvision.transforms.v2 import functional as vision

    height, width = image.shape[-2:]
    if operation == "identity":
        return image
    if operation in _WITHOUT_SIGN:
        return getattr(vision, operation)(image)
    if operation in ("brightness", "sharpness"):
        return getattr(vision, f"adjust_{operation}")(image, 1.0 + sign * 0.9 * level)
    # At full level: 30 degrees of rotation, 17 of shear, a tenth of the side of translation
    amount = sign * level
    angle = amount * 30.0 if operation == "rotate" else 0.0
    shear = [amount * 17.0 if operation == f"shear_{axis}" else 0.0 for axis in "xy"]
    shift = [0, 0]
    if operation == "translate_x":
        shift[0] = int(amount * width * 0.1)
    elif operation == "translate_y":
        shift[1] = int(amount * height * 0.1)
    return vision.affine(
        image,
        angle=angle,
        translate=shift,
        scale=1.0,
        shear=shear,
        interpolation=vision.InterpolationMode.BILINEAR,
    )
