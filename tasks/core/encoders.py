"""What an image-encoder plugin returns, and the pass of a frozen encoder over a memory-mapped split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


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


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (B, 3, H, W) float32 channels-last images of (B, H, W, 3) uint8 ones: (x / 255 - mean) / std."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device)
    return (images.to(torch.float32) * scale + shift).permute(0, 3, 1, 2)


def take_rows(images: np.ndarray, rows: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Return the given rows of a memory-mapped (N, S, S, 3) array as a uint8 tensor on `device`; only they are read."""
    return torch.from_numpy(images[rows.cpu().numpy()]).to(device)


def encode_images(
    encoder: ImageEncoder,
    images: np.ndarray,
    *,
    device: torch.device | str,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the (N, out_dim) float32 CPU features of a whole array under the frozen encoder, in eval mode.

    Args:
        images: (N, S, S, 3) uint8.
        batch_size: images per forward pass.
        progress: called with (images done, images in all) after each batch.
    """
    module = encoder.module.to(device).eval()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(images), batch_size):
            rows = torch.arange(first, min(first + batch_size, len(images)))
            parts.append(module(normalise(take_rows(images, rows, device), encoder.mean, encoder.std)).float().cpu())
            if progress:
                progress(int(rows[-1]) + 1, len(images))
    return torch.cat(parts).clone()
