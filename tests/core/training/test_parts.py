"""Parts of pictures, and their way back."""

import pytest
import torch

from tasks.core.training.parts import join_parts, pull_back_parts, split_parts


def _images(count, side=8):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def test_one_part_is_the_picture_itself():
    images = _images(2)
    assert split_parts(images, 1) is images and join_parts(images, 1) is images
    assert pull_back_parts(images, images, 1) is images


def test_parts_stand_row_by_row():
    picture = torch.zeros(1, 1, 4, 4)
    picture[0, 0, :2, 2:] = 1.0
    picture[0, 0, 2:, :2] = 2.0
    shown = split_parts(picture, 2)
    assert shown.shape == (4, 1, 4, 4)
    assert [float(part.mean()) for part in shown] == [0.0, 1.0, 2.0, 0.0]
    assert torch.equal(join_parts(shown, 2), picture)


def test_a_part_of_a_constant_image_shows_it_again():
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 6, 6)
    assert torch.equal(split_parts(join_parts(images, 2), 2), images)


def test_the_way_back_is_the_transposed_map():
    pictures, grads = _images(2), _images(8)
    back = pull_back_parts(grads, pictures, 2)
    assert back.shape == pictures.shape
    forward = (split_parts(pictures, 2) * grads).sum()
    assert torch.allclose((back * pictures).sum(), forward, rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_small_pictures_are_enlarged_and_the_way_back_is_the_transposed_map(parts):
    images = _images(2 * parts**2, side=12)
    pictures = join_parts(images, parts, 4)
    assert pictures.shape == (2, 3, 4, 4)
    shown = split_parts(pictures, parts, 12)
    assert shown.shape == images.shape
    back = pull_back_parts(images, pictures, parts)
    assert back.shape == pictures.shape
    assert torch.allclose((back * pictures).sum(), (shown * images).sum(), rtol=1e-5)


def test_a_small_picture_is_the_mean_of_what_it_covers():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert join_parts(images, 1, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    # A picture whose side is that of an image stays as it is
    assert join_parts(images, 1, 4) is images and split_parts(images, 1, 4) is images
