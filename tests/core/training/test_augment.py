"""Augmentation keeps shape and range, comes from its generator alone, and each part does what its
name says.
"""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tasks.core.foundations.seeding import make_generator
from tasks.core.training import augment as module
from tasks.core.training.augment import AugmentSection, augment

EVERYTHING = AugmentSection(crop_scale=0.5, flip=True, randaugment_ops=2, randaugment_magnitude=5)


def _section(**changes):
    return AugmentSection(
        **{
            "crop_scale": 1.0,
            "flip": False,
            "randaugment_ops": 0,
            "randaugment_magnitude": 0,
            **changes,
        }
    )


def _images(count=5, height=23, width=31):
    """Smooth pictures with some noise, so that every operation has something to change."""
    generator = make_generator(0, "pictures")
    coarse = torch.rand(count, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    noisy = 0.7 * smooth + 0.15 * torch.rand(count, 3, height, width, generator=generator) + 0.05
    return (noisy * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _apply(operation, picture, level, sign=1.0):
    """One operation on (H, W, 3)."""
    return module._apply(operation, picture.permute(2, 0, 1), level, sign).permute(1, 2, 0)


def test_nothing_switched_on_returns_the_very_images():
    images = _images()
    assert augment(images, _section(randaugment_magnitude=7), make_generator(0)) is images


@pytest.mark.parametrize(
    "section",
    [
        EVERYTHING,
        _section(flip=True),
        _section(crop_scale=0.3),
        _section(randaugment_ops=3, randaugment_magnitude=10),
    ],
)
def test_shape_and_type_stay_the_input_is_not_touched_and_the_generator_decides(section):
    images = _images()
    before = images.clone()
    got = augment(images, section, make_generator(1))
    assert got.shape == images.shape and got.dtype == torch.uint8 and got.is_contiguous()
    assert torch.equal(images, before) and not torch.equal(got, images)
    state = torch.get_rng_state()
    assert torch.equal(augment(images, section, make_generator(1)), got)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augment(images, section, make_generator(2)), got)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (17, 224)])
def test_a_mirror_without_a_crop_is_exact_and_comes_half_of_the_time(height, width):
    images = torch.randint(
        0, 256, (300, height, width, 3), dtype=torch.uint8, generator=make_generator(0)
    )
    got = augment(images, _section(flip=True), make_generator(4))
    same, mirrored = (got == images).flatten(1).all(1), (got == images.flip(2)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 115 <= int(mirrored.sum()) <= 185  # 150 +- 4 standard deviations


@pytest.mark.parametrize("crop_scale", [0.2, 0.9])
def test_a_crop_has_the_allowed_area_and_shape_and_moves_about(crop_scale):
    """Two ramps, x in channel 0 and y in channel 1, tell which window of the image each output
    shows.
    """
    size, count = 100, 400
    ramp = 2 * torch.arange(size, dtype=torch.uint8)
    picture = torch.stack(
        [
            ramp.expand(size, size),
            ramp[:, None].expand(size, size),
            torch.zeros(size, size, dtype=torch.uint8),
        ],
        2,
    )
    got = augment(
        picture.expand(count, size, size, 3), _section(crop_scale=crop_scale), make_generator(3)
    ).double()
    width = (got[:, 50, -1, 0] - got[:, 50, 0, 0]) / (2 * (size - 1))
    height = (got[:, -1, 50, 1] - got[:, 0, 50, 1]) / (2 * (size - 1))
    # Of rounding to 8 bits and of half a pixel at the border
    area, ratio, slack = width * height, width / height, 0.03
    assert (
        crop_scale - slack <= float(area.min()) <= crop_scale + 0.1
        and 0.95 <= float(area.max()) <= 1 + slack
    )
    assert 3 / 4 - slack <= float(ratio.min()) and float(ratio.max()) <= 4 / 3 + slack
    left = got[:, 50, 0, 0] / (2 * size)
    assert float(left.min()) < 0.02 and float((left + width).max()) > 0.97
    if crop_scale == 0.2:
        assert float(ratio.min()) < 0.8 and float(ratio.max()) > 1.25 and float(left.std()) > 0.1


def test_a_crop_keeps_each_images_range_and_mirrors_too():
    images = _images(count=40)
    got = augment(images, _section(crop_scale=0.3, flip=True), make_generator(5))
    for picture, crop in zip(images, got, strict=True):
        for channel in range(3):
            assert int(picture[..., channel].min()) <= int(crop[..., channel].min())
            assert int(crop[..., channel].max()) <= int(picture[..., channel].max())


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("operation", module._OPERATIONS)
def test_every_operation_changes_the_picture_except_identity(operation, sign):
    picture = _images()[0]
    got = _apply(operation, picture, 1.0, sign)
    assert got.shape == picture.shape and got.dtype == torch.uint8
    assert torch.equal(got, picture) == (operation == "identity")
    if operation not in ("identity", "autocontrast", "equalize"):
        assert not torch.equal(got, _apply(operation, picture, 1.0, -sign))


@pytest.mark.parametrize(
    "operation", [name for name in module._OPERATIONS if name not in ("autocontrast", "equalize")]
)
def test_magnitude_zero_leaves_the_picture_exactly(operation):
    picture = _images()[1]
    assert torch.equal(_apply(operation, picture, 0.0, -1.0), picture)


@pytest.mark.parametrize(
    ("operation", "reference"),
    [
        ("equalize", ImageOps.equalize),
        ("autocontrast", ImageOps.autocontrast),
        ("brightness", lambda picture: ImageEnhance.Brightness(picture).enhance(1.9)),
        ("sharpness", lambda picture: ImageEnhance.Sharpness(picture).enhance(1.9)),
    ],
)
def test_colour_operations_agree_with_pillow(operation, reference):
    picture = _images()[2]
    expected = np.asarray(reference(Image.fromarray(picture.numpy()))).astype(int)
    # Rounding
    assert np.abs(_apply(operation, picture, 1.0).numpy().astype(int) - expected).max() <= 1


def test_geometric_operations_move_by_the_documented_amounts():
    picture = torch.zeros(40, 60, 3, dtype=torch.uint8)
    picture[10, 20] = 255
    assert _apply("translate_x", picture, 1.0)[10, 26, 0] == 255  # a tenth of the width
    assert _apply("translate_y", picture, 1.0, -1.0)[6, 20, 0] == 255  # a tenth of the height
    line = torch.zeros(41, 41, 3, dtype=torch.uint8)
    line[:, 20] = 255
    turned, sheared = (_apply(name, line, 1.0)[..., 0].float() for name in ("rotate", "shear_x"))
    columns = torch.arange(41.0)
    for result, slope in ((turned, np.tan(np.radians(30))), (sheared, np.tan(np.radians(17)))):
        rows = torch.arange(10, 31)
        centres = (result[rows] * columns).sum(1) / result[rows].sum(1)
        assert abs(float(centres[-1] - centres[0])) / 20 == pytest.approx(slope, rel=0.05)


def test_each_image_gets_its_own_operation_and_all_of_them_come_up():
    picture = _images()[3]
    got = augment(
        picture.expand(200, *picture.shape),
        _section(randaugment_ops=1, randaugment_magnitude=10),
        make_generator(6),
    )
    possible = {
        _apply(operation, picture, 1.0, sign).numpy().tobytes(): operation
        for operation in module._OPERATIONS
        for sign in (1.0, -1.0)
    }
    assert {possible[one.numpy().tobytes()] for one in got} == set(module._OPERATIONS)


@pytest.mark.parametrize("magnitude", [0, 5, 10])
@pytest.mark.parametrize("is_channels_last", [True, False])
def test_a_batch_is_its_images_one_by_one_to_the_bit(magnitude, is_channels_last):
    """The oracle makes the same draws and applies each image's operation to that image alone, in
    both memory layouts that come in.
    """
    images = _images(count=300).permute(0, 3, 1, 2)
    images = images if is_channels_last else images.contiguous()
    before, generator, oracle = images.clone(), make_generator(7), make_generator(7)
    got = module._randaugment(images, magnitude, generator)
    chosen = [
        module._OPERATIONS[index]
        for index in torch.randint(len(module._OPERATIONS), (len(images),), generator=oracle)
    ]
    signs = [-1.0 if draw < 0.5 else 1.0 for draw in torch.rand(len(images), generator=oracle)]
    assert set(zip(chosen, signs, strict=True)) == {
        (name, sign) for name in module._OPERATIONS for sign in (1.0, -1.0)
    }
    for operation, sign, image, result in zip(chosen, signs, images, got, strict=True):
        assert torch.equal(result, module._apply(operation, image, magnitude / 10, sign)), (
            operation,
            sign,
        )
    assert (
        got.shape == images.shape
        and got.dtype == torch.uint8
        and got.is_contiguous()
        and torch.equal(images, before)
    )
    assert torch.equal(generator.get_state(), oracle.get_state())


def test_a_batch_where_some_operations_do_not_come_up():
    images = _images(count=1)
    for seed in range(30):
        oracle = make_generator(seed)
        operation = module._OPERATIONS[
            int(torch.randint(len(module._OPERATIONS), (1,), generator=oracle))
        ]
        sign = -1.0 if float(torch.rand(1, generator=oracle)) < 0.5 else 1.0
        got = augment(
            images, _section(randaugment_ops=1, randaugment_magnitude=10), make_generator(seed)
        )
        assert torch.equal(got[0], _apply(operation, images[0], 1.0, sign))
