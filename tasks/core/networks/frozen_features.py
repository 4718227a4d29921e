"""Runs a frozen image encoder inside trajectory matching (METHOD 5). Each image is encoded once an
iteration, and the gradient of its features is pulled back to the pixels once.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from tasks.core.networks.folding import fold_batch_norm

# Images per pass. On the CPU each tensor above 32 MiB gets fresh pages from the system: 16 images
# are 15 % faster than 32 (MobileNetV2, 160 px).
_ON_CPU, _ON_GPU = 16, 64


def prepare_frozen(encoder: nn.Module, example: Tensor) -> nn.Module:
    """Return the fastest form of a frozen encoder that gives the same features. It is a copy with
    its BatchNorm folded, or the encoder itself where it has none.

    The copy is folded on the CPU in full float32, and goes back to the encoder's device. The
    encoder itself is not changed. Where folding is refused, a warning says why, and the encoder is
    used as it is.

    Args:
        encoder: (B, C, H, W) -> (B, F).
        example: (B, C, H, W) images in the encoder's normalised space; two are enough.
    """
    if not any(isinstance(part, nn.BatchNorm2d) for part in encoder.modules()):
        return encoder
    device = next(encoder.parameters()).device
    # On a GPU, TF32 convolutions would differ by more than a fold may change
    folded = copy.deepcopy(encoder).to("cpu").requires_grad_(False).eval()
    try:
        fold_batch_norm(folded, example.to("cpu"))
    except ValueError as error:
        warnings.warn(
            f"the frozen image encoder runs with its BatchNorm layers, which is slower: {error}",
            stacklevel=2,
        )
        return encoder
    return folded.to(device)


class FrozenFeatures:
    """Features of the images that an iteration uses.

    Args:
        encoder: frozen module, (B, C, H, W) -> (B, F), best from `prepare_frozen`.
        pixels: (M, C, H, W).
        used: indices of the images that the batches draw, with repetitions. No other image is
            encoded.
        micro_batch: images per pass, which bounds memory; None: 16 on the CPU, 64 on a GPU.

    Attributes:
        values: (M, F) features; rows that are not used are zero.
    """

    def __init__(
        self, encoder: nn.Module, pixels: Tensor, used: Tensor, *, micro_batch: int | None = None
    ) -> None:
        self._encoder, self._pixels = encoder, pixels
        self._micro_batch = micro_batch or (_ON_CPU if pixels.device.type == "cpu" else _ON_GPU)
        self._rows = torch.unique(used)
        with torch.no_grad():
            parts = [encoder(self._take(rows)) for rows in self._rows.split(self._micro_batch)]
        self.values = torch.zeros(
            len(pixels), parts[0].shape[1], dtype=parts[0].dtype, device=pixels.device
        )
        self.values[self._rows] = torch.cat(parts)

    def pull_back(self, grads: Tensor) -> Tensor:
        """Return dL/d(pixels) (M, C, H, W) for dL/d(features) (M, F); 0 for images not used."""
        found = torch.zeros_like(self._pixels)
        # Each part runs forward again: keeping the graphs of all parts would take the memory that
        # micro-batches save
        for rows in self._rows.split(self._micro_batch):
            leaf = self._take(rows).requires_grad_()
            features = self._encoder(leaf)
            (grad,) = torch.autograd.grad(features, leaf, grads[rows])
            found[rows] = grad
        return found

    def _take(self, rows: Tensor) -> Tensor:
        return self._pixels[rows].contiguous(memory_format=torch.channels_last)
