"""Computes features of several views of the synthetic images under a frozen encoder: each image
itself, and random crops and mirrors of it.

Some patterns of pixels mean something to the encoder at hand alone. A crop breaks them, so images
that are seen as crops hold fewer of them. Cost: one pass through the encoder per view. The gradient
goes back through the crop to the pixels (METHOD 5).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.core.networks.frozen_features import FrozenFeatures
from tasks.core.training.augment import crop_and_flip

VIEW_SCALE = 0.4  # the least share of an image's area in a view


class ViewFeatures:
    """Features of `num_views` views of the images that an iteration uses.

    Args:
        encoder: frozen module, (B, C, H, W) -> (B, F).
        pixels: (M, C, H, W).
        used: indices of the images that some batch draws, each any number of times. No other image
            is encoded.
        num_views: at least 1; the first view is the image itself.
        draw: returns the generator of the crops of a view, by the number of the view, 1 or more. It
            is asked again for the way back, and has to return the same draws.
        micro_batch: images per pass; None: as of `FrozenFeatures`.

    Attributes:
        name: of the values among the rows of a student: `features` with one view, else `views`.
        values: (M, F) with one view, else (M, V, F); rows that are not used are zero.
    """

    def __init__(
        self,
        encoder: nn.Module,
        pixels: Tensor,
        used: Tensor,
        *,
        num_views: int,
        draw: Callable[[int], torch.Generator],
        micro_batch: int | None = None,
    ) -> None:
        self._pixels, self._draw = pixels, draw
        self._views = [
            FrozenFeatures(encoder, self._view(number, pixels), used, micro_batch=micro_batch)
            for number in range(num_views)
        ]
        values = [view.values for view in self._views]
        self.name, self.values = "features", values[0]
        if num_views > 1:
            self.name, self.values = "views", torch.stack(values, 1)

    def pull_back(self, grads: Tensor) -> Tensor:
        """Return dL/d(pixels) (M, C, H, W) of dL/d(features), shaped like `values`."""
        if len(self._views) == 1:
            return self._views[0].pull_back(grads)
        found = self._views[0].pull_back(grads[:, 0])
        for number, features in enumerate(self._views[1:], start=1):
            grad_view = features.pull_back(grads[:, number])
            with torch.enable_grad():
                leaf = self._pixels.detach().requires_grad_()
                (grad,) = torch.autograd.grad(self._view(number, leaf), leaf, grad_view)
            found = found + grad
        return found

    def _view(self, number: int, pixels: Tensor) -> Tensor:
        return (
            crop_and_flip(pixels, VIEW_SCALE, self._draw(number), flip=True) if number else pixels
        )
