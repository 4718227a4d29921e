"""What 8-bit pictures and float16 texts hold."""

import pytest
import torch

from tasks.core.networks.encoders import normalise
from tasks.core.training.eight_bits import keep_in_range, round_images, round_texts, to_pictures

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_a_real_picture_is_its_own_rounding():
    pictures = torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 256).T.reshape(1, 16, 16, 3)
    images = normalise(pictures, MEAN, STD)
    assert torch.equal(to_pictures(images, MEAN, STD), pictures)
    assert torch.equal(round_images(images, MEAN, STD), images)


def test_rounding_moves_by_half_a_level_at_most_and_clips():
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    std, mean = torch.tensor(STD).view(3, 1, 1), torch.tensor(MEAN).view(3, 1, 1)
    pixels = (images * std + mean).clamp(0, 1)
    shown = round_images(images, MEAN, STD) * std + mean
    assert float((shown - pixels).abs().max()) <= 0.5 / 255 + 1e-6
    kept = images.clone()
    keep_in_range(kept, MEAN, STD)
    assert torch.allclose(kept * std + mean, pixels, atol=1e-6)


def test_texts_are_those_of_float16_and_too_large_ones_are_refused():
    texts = torch.tensor([[0.1, -3.0, 1e-9]])
    rounded = round_texts(texts)
    assert torch.equal(rounded, round_texts(rounded)) and rounded[0, 1] == -3.0
    assert rounded.dtype == torch.float32
    with pytest.raises(ValueError, match=r"storage: received 'uint8', and a text value of 70000"):
        round_texts(torch.tensor([[7e4]]))
