"""Pictures of pair sets: pixel values, sizes within the budget, a contact sheet with the same bytes
each time.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.reporting.gallery import (
    MAX_ROWS,
    SHEET_GAP,
    SHEET_SIDE,
    Gallery,
    GalleryRow,
    data_uri,
    fit_galleries,
    to_pictures,
    write_contact_sheet,
)
from tests.reporting.conftest import make_gallery


def test_pictures_are_denormalised_by_channel_and_clipped():
    images = torch.tensor([0.0, 1.0, 9.0]).view(1, 3, 1, 1).expand(1, 3, 2, 5)
    pictures = to_pictures(images, (0.5, 0.2, 0.1), (0.1, 0.4, 0.3))
    assert pictures.shape == (1, 2, 5, 3)
    assert pictures.dtype == np.uint8
    assert pictures[0, 1, 3].tolist() == [128, 153, 255]


def test_pictures_undo_the_normalisation_of_every_grey_value():
    values = torch.arange(256).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = (values / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(
        1, 3, 1, 1
    )
    assert np.array_equal(to_pictures(normalised, mean, std), values.permute(0, 2, 3, 1).numpy())


def test_images_without_a_mean_for_each_channel_are_refused():
    with pytest.raises(ValueError, match=r"received images \(2, 3, 4, 4\), mean \(0.5,\)"):
        to_pictures(torch.zeros(2, 3, 4, 4), (0.5,), (0.5,))


def test_a_gallery_of_other_arrays_is_refused_with_the_pair_named():
    good = make_gallery("a-3", 2, 8)
    with pytest.raises(ValueError, match=r"gallery 'a-3', pair 1: distilled_image.*float64"):
        Gallery("a-3", (good.rows[0], replace(good.rows[1], distilled_image=np.zeros((8, 8, 3)))))
    with pytest.raises(ValueError, match=r"pair 0: distilled_image.*\(4, 8, 3\)"):
        Gallery("a-3", (replace(good.rows[0], distilled_image=np.zeros((4, 8, 3), np.uint8)),))


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_small_pictures_are_embedded_without_loss_and_large_ones_are_reduced():
    small = make_gallery("a-3", 1, 32).rows[0].distilled_image
    assert np.array_equal(np.asarray(decode(data_uri(small))), small)
    large = make_gallery("a-3", 1, 300).rows[0].distilled_image
    assert decode(data_uri(large, max_side=120)).size == (120, 120)
    assert decode(data_uri(large)).format == "JPEG"


def test_galleries_are_cut_to_their_first_pairs_until_they_fit():
    galleries = [make_gallery("a-20", 20, 40), make_gallery("b-7", 7, 40)]
    roomy = fit_galleries(galleries, 10**8)
    assert {name: len(pairs) for name, pairs in roomy.items()} == {"a-20": MAX_ROWS, "b-7": 7}
    total = picture_bytes(roomy)
    tight = fit_galleries(galleries, total // 2)
    assert 0 < picture_bytes(tight) <= total // 2
    assert tight["a-20"][0] is galleries[0].rows[0]
    assert [len(pairs) for pairs in fit_galleries(galleries, 1).values()] == [1, 1]


def picture_bytes(galleries: dict[str, tuple[GalleryRow, ...]]) -> int:
    shown = [pair for pairs in galleries.values() for pair in pairs]
    return sum(len(pair.initial_uri) + len(pair.distilled_uri) for pair in shown)


def test_pixel_change_is_the_mean_absolute_difference():
    row = replace(
        make_gallery("a-3", 1, 2).rows[0],
        initial_image=np.full((2, 2, 3), 250, np.uint8),
        distilled_image=np.full((2, 2, 3), 4, np.uint8),
    )
    assert row.pixel_change == 246.0


def test_a_contact_sheet_has_all_pairs_and_the_same_bytes_each_time(tmp_path):
    gallery = make_gallery("a-9", 9, 64)
    for name in ("first.png", "second.png"):
        write_contact_sheet(gallery, tmp_path / name, columns=4)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    sheet = np.asarray(Image.open(tmp_path / "first.png"))
    assert sheet.shape[1] > 4 * 320
    last_cell = sheet[-200:, 12:172]
    assert (last_cell != 255).any()


def test_a_long_caption_or_word_stays_below_its_own_picture(tmp_path):
    row = make_gallery("a-9", 1, 32).rows[0]
    long = replace(row, initial_caption="word " * 60 + "end", nearest_sentence="")
    for name, one in (
        ("long", long),
        ("unbroken", replace(long, initial_caption="W" * 90)),
        ("empty", replace(long, initial_caption="")),
    ):
        write_contact_sheet(Gallery("a-9", (one,)), tmp_path / f"{name}.png")
    for name in ("long", "unbroken"):
        below = np.asarray(Image.open(tmp_path / f"{name}.png"))[-(66 + SHEET_GAP) :, :, 0]
        assert (below[:, SHEET_GAP : SHEET_GAP + SHEET_SIDE] < 128).any()
        between = below[:, SHEET_GAP + SHEET_SIDE + 1 : SHEET_GAP + SHEET_SIDE + 4]
        assert (between == 255).all()
        assert (below[-SHEET_GAP:] == 255).all()
