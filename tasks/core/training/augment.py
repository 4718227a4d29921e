"""Augments training images in batches (METHOD 3): RandomResizedCrop, flip and RandAugment.

The caller gives the generator of all draws, so equal seeds give equal batches on one device.
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


_WITHOUT_SIGN = ("identity", "autocontrast", "equalize")
# ALBEF/BLIP leave out the colour operations that change what a caption says (a red ball must stay
# red).
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
        scale: the least share of the area that a window covers, 0..1; its aspect ratio is 3/4..4/3.
        generator: a CPU generator; source of all draws.
        flip: mirror each image with probability 1/2.
    """
    draws = torch.rand(len(images), 5, generator=generator)
    area = scale + (1.0 - scale) * draws[:, 0]
    ratio = torch.exp((2.0 * draws[:, 1] - 1.0) * torch.log(torch.tensor(4.0 / 3.0)))
    # A large window has less room for other shapes: this keeps it inside the image at the area that
    # was drawn.
    ratio = torch.minimum(torch.maximum(ratio, area), 1.0 / area)
    height, width = (area / ratio).sqrt(), (area * ratio).sqrt()
    mirror = torch.where((draws[:, 4] < 0.5) & torch.tensor(flip), -1.0, 1.0)
    zero = torch.zeros_like(area)
    # Output coordinates in -1..1 map to a window of relative size (width, height) around a centre
    # that keeps it inside.
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
    """One operation of RandAugment (Cubuk et al., 2020) per image, with a random sign where it has
    one.

    Images that drew the same operation and sign are computed together: a call per image leaves a
    GPU waiting for Python.
    """
    chosen = torch.randint(len(_OPERATIONS), (len(images),), generator=generator)
    is_positive = torch.rand(len(images), generator=generator) >= 0.5
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
    """One operation on (..., 3, H, W) uint8, on every image by itself."""
    from torchvision.transforms.v2 import functional as vision

    height, width = image.shape[-2:]
    if operation == "identity":
        return image
    if operation in _WITHOUT_SIGN:
        return getattr(vision, operation)(image)
    if operation in ("brightness", "sharpness"):
        return getattr(vision, f"adjust_{operation}")(image, 1.0 + sign * 0.9 * level)
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
