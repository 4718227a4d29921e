"""Defines what an image-encoder plugin returns, and runs a frozen encoder over a memory-mapped
split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from tasks.core.foundations.section import Range
from tasks.core.networks.precision import products
from tasks.core.networks.standard_forms import (
    forget_attention_biases,
    use_differentiable_activations,
    use_patch_products,
)

_UNIT = "for pixels in 0..1 (values for 0..255 are divided by 255)"
Mean = Annotated[float, Range(ge=-10.0, le=10.0, unit=_UNIT)]
Std = Annotated[float, Range(ge=1e-3, le=10.0, unit=_UNIT)]
# One number per channel that replaces the encoder's own, or null to keep these
Means = tuple[Mean, Mean, Mean] | None
Stds = tuple[Std, Std, Std] | None


@dataclass(frozen=True)
class ImageEncoder:
    """A headless image encoder.

    Attributes:
        module: (B, C, H, W) normalised images -> (B, out_dim) pooled features.
        out_dim: width of the features, asked of the module.
        mean, std: per-channel normalisation from the encoder's own data config.
    """

    module: nn.Module
    out_dim: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def take(self, images: np.ndarray, rows: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Return the given rows of (N, S, S, 3) uint8 images in the form that the encoder takes:
        normalised, (B, 3, S, S) float32 on `device`.
        """
        return normalise(take_rows(images, rows, device), self.mean, self.std)


def ready(module: nn.Module) -> nn.Module:
    """Bring a network to its standard form, in place, and return it.

    The network is then in eval mode and channels-last. Patches are matrix products, hard sigmoids
    have second derivatives, and attention gathers its biases in each call (`standard_forms.py`).
    Every plugin of an image encoder ends with this call.
    """
    use_patch_products(module)
    use_differentiable_activations(module)
    forget_attention_biases(module)
    return module.eval().to(memory_format=torch.channels_last)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (B, 3, H, W) float32 channels-last images of (B, H, W, 3) uint8 ones: (x / 255 - mean)
    / std.
    """
    # (x / 255 - mean) / std as x * scale + shift, which saves one pass over the images
    scale = torch.tensor([1.0 / (255.0 * s) for s in std]).to(images.device, non_blocking=True)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).to(
        images.device, non_blocking=True
    )
    return (images.to(torch.float32) * scale + shift).permute(0, 3, 1, 2)


def take_rows(images: np.ndarray, rows: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Return the given rows of a memory-mapped (N, S, S, 3) array as a uint8 tensor on `device`. No
    other row is read.
    """
    return torch.from_numpy(images[rows.cpu().numpy()]).to(device, non_blocking=True)


def encode_images(
    encoder: ImageEncoder,
    images: np.ndarray,
    *,
    device: torch.device | str,
    rows: Tensor | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the features (N, out_dim) of the images of an array under the frozen encoder, float32
    on the CPU. The encoder is moved to `device` and put into eval mode, in place.

    Args:
        images: (N, S, S, 3) uint8.
        rows: features of these images only, (R,); None takes all.
        batch_size: images per forward pass. None takes 16 on the CPU, where each larger tensor
            gets fresh pages from the system, and 256 on a GPU.
        progress: called with (images done, images in all) after each batch.
    """
    module = encoder.module.to(device).eval()
    rows = torch.arange(len(images)) if rows is None else rows
    batch_size = batch_size or (16 if torch.device(device).type == "cpu" else 256)
    parts, done = [], 0
    # Features are stored under a key without the precision of a method, so it must not matter here
    with torch.inference_mode(), products("float32"):
        for part in rows.split(batch_size):
            parts.append(module(encoder.take(images, part, device)).float().cpu())
            done += len(part)
            if progress:
                progress(done, len(rows))
    # A copy from outside of inference mode may become part of a graph
    return torch.cat(parts).clone()
