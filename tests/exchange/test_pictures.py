"""What 8 bits cost: rounding and clipping apart."""

import numpy as np
import pytest
import torch

from tasks.exchange.pictures import to_8_bits

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def of_pixels(pixels):
    """Return normalised images (2, 3, 1, 5) of pixels (2, 3, 1, 5) in 0..255."""
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    return (pixels / 255 - mean) / std


def test_rounding_and_clipping_are_told_apart():
    pixels = torch.full((2, 3, 1, 5), 100.0)
    pixels[0, 0, 0, 0] = 100.4  # rounded by 0.4
    pixels[0, 1, 0, 1], pixels[1, 2, 0, 4] = -51.0, 306.0  # clipped by 51 each
    shown, cost = to_8_bits(of_pixels(pixels), MEAN, STD)
    assert (cost.num_clipped, cost.num_values) == (2, 30)
    assert cost.largest_rounded == pytest.approx(0.4 / 255 / 0.2, rel=1e-3)
    assert cost.largest_clipped == cost.largest == pytest.approx(0.2 / 0.25, rel=1e-3)
    assert cost.mean_clipped == pytest.approx((0.2 / 0.25 + 0.2 / 0.5) / 2, rel=1e-3)
    assert shown[0, 0, 1, 1] == 0 and shown[1, 0, 4, 2] == 255
    told = cost.in_words
    assert "Rounding to 8 bits moves a normalised value by at most 0.0078." in told
    assert "2 of 30 values lie outside" in told and "at most 0.8000, by 0.6000 in their" in told


def test_pictures_that_are_not_clipped_say_so():
    pixels = torch.from_numpy(np.arange(30.0).reshape(2, 3, 1, 5).astype("float32") + 0.3)
    _, cost = to_8_bits(of_pixels(pixels), MEAN, STD)
    assert cost.num_clipped == cost.largest_clipped == cost.mean_clipped == 0
    assert "All 30 values lie within" in cost.in_words and "none is clipped" in cost.in_words
