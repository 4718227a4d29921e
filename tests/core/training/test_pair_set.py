"""Sets as records and files: 8 bits, several texts an image, several parts a picture."""

import dataclasses

import pytest
import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.tensor_files import load_tensors
from tasks.core.training.eight_bits import round_images, round_texts
from tasks.core.training.pair_files import (
    PAIRS,
    load_pairs,
    num_bytes,
    save_pairs,
    stored_bytes,
)
from tasks.core.training.pair_set import PairSet, SetPairs

HALF = (0.5, 0.5, 0.5)
IMAGES = torch.randn(2, 3, 4, 4, generator=make_generator(0)) * 0.3
TEXTS = torch.randn(2, 5, generator=make_generator(1))
PLAIN = PairSet(IMAGES, TEXTS, HALF, HALF)
ROUNDED = dataclasses.replace(
    PLAIN,
    images=round_images(IMAGES, HALF, HALF),
    text_embeds=round_texts(TEXTS),
    storage="uint8",
)


def _several(texts_of_images, parts=1):
    index = torch.tensor(texts_of_images)
    texts = torch.arange(len(index)).view(-1, 1).expand(-1, 5).float()
    return dataclasses.replace(PLAIN, text_embeds=texts, text_image_idx=index, parts=parts)


def test_a_rounded_set_takes_a_quarter_of_its_pixels_and_half_of_its_texts(tmp_path):
    save_pairs(tmp_path, ROUNDED)
    stored = load_tensors(tmp_path / PAIRS)
    assert stored["images"].dtype == torch.uint8 and stored["text_embeds"].dtype == torch.float16
    found = load_pairs(tmp_path)
    assert torch.equal(found.images, ROUNDED.images) and found.storage == "uint8"
    assert torch.equal(found.text_embeds, ROUNDED.text_embeds)
    assert found.text_embeds.dtype == torch.float32
    assert num_bytes(found) == 2 * 3 * 16 + 2 * 5 * 2
    assert num_bytes(PLAIN) == 4 * (2 * 3 * 16 + 2 * 5)


@pytest.mark.parametrize("change", [{"images": IMAGES}, {"text_embeds": TEXTS}])
def test_values_that_8_bits_do_not_hold_are_not_stored_as_if_they_did(tmp_path, change):
    with pytest.raises(ValueError, match=r"PairSet\.storage: received 'uint8' with values"):
        save_pairs(tmp_path, dataclasses.replace(ROUNDED, **change))
    assert not list(tmp_path.iterdir())


def test_several_texts_and_parts_come_back_from_files(tmp_path):
    pairs = _several([0, 0, 1, 2, 3, 4, 5, 6, 7, 7], parts=2)
    save_pairs(tmp_path, pairs)
    found = load_pairs(tmp_path)
    assert found.parts == 2 and torch.equal(found.text_image_idx, pairs.text_image_idx)
    assert (found.num_pairs, found.num_images, found.num_training_pairs) == (2, 8, 10)
    assert found.student_images().shape == (8, 3, 4, 4)
    assert num_bytes(found) == 4 * (2 * 3 * 16 + 10 * 5 + 10)


def test_real_pairs_count_what_their_pictures_and_captions_take(tmp_path):
    save_pairs(tmp_path, dataclasses.replace(PLAIN, real_bytes=1234))
    assert num_bytes(load_pairs(tmp_path)) == 1234


@pytest.mark.parametrize("real_bytes", [None, 1234])
@pytest.mark.parametrize("pairs", [PLAIN, ROUNDED, _several([0, 0, 1])])
def test_the_bytes_of_a_stored_set_are_told_without_reading_it(tmp_path, pairs, real_bytes):
    save_pairs(tmp_path, dataclasses.replace(pairs, real_bytes=real_bytes))
    assert stored_bytes(tmp_path) == num_bytes(load_pairs(tmp_path))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 0, 1, 1, 1], "one a text"),
        ([1, 0, 1, 1], "ascending from 0 to 1"),
        ([0, 0, 2, 2], "ascending"),
        ([0, 0, 0, 0], "ascending|an image without a text"),
    ],
)
def test_texts_of_no_image_and_images_without_text_are_refused(index, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(
            PLAIN, text_embeds=torch.zeros(4, 5), text_image_idx=torch.tensor(index)
        )


def test_a_visit_draws_one_text_of_the_image_uniformly():
    pairs = SetPairs(_several([0, 0, 0, 1]), device=torch.device("cpu"))
    draw = make_generator(2)
    rows = torch.tensor([1, 0]).repeat(600)
    images, texts = pairs.take(rows, draw, draw)
    assert torch.equal(images[:2], IMAGES[[1, 0]])
    assert set(texts[::2, 0].tolist()) == {3.0}
    counts = torch.bincount(texts[1::2, 0].long(), minlength=3)
    assert len(counts) == 3 and int(counts.min()) > 150
