"""Real pairs up to the bytes of a synthetic set."""

import io

import pytest
import torch
from PIL import Image

from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.selection.coresets import random_equal_bytes
from tasks.core.selection.pool import Pool
from tasks.core.selection.real_bytes import JPEG_QUALITY, RealBytes

SIDE, WIDTH, IMAGES = 24, 5, 30


def _split(text="a caption"):
    generator = make_generator(0)
    images = torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), generator=generator).to(torch.uint8)
    owners = torch.arange(IMAGES).repeat_interleave(torch.tensor([1, 3] * (IMAGES // 2)))
    texts = tuple(f"{text} {number}" for number in range(len(owners)))
    return Split(images.numpy(), owners, torch.zeros(len(owners), WIDTH), texts)


def _select(num_pairs, split=None, seed=1):
    real = RealBytes(split or _split())
    pool = Pool(torch.arange(IMAGES), torch.ones(IMAGES, 2), torch.ones(IMAGES, 2), {}, real)
    chosen = random_equal_bytes.select(
        random_equal_bytes.Config(), pool, num_pairs, make_generator(seed)
    )
    return chosen, real


def _jpeg(split, image):
    buffer = io.BytesIO()
    Image.fromarray(split.images[image]).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return len(buffer.getvalue())


@pytest.mark.parametrize("num_pairs", [3, 5, 10])
def test_it_takes_what_fits_and_the_next_picture_would_not(num_pairs):
    split = _split()
    chosen, real = _select(num_pairs, split)
    budget = num_pairs * (SIDE * SIDE * 3 + 2 * WIDTH)
    images, captions = chosen.image_idx.tolist(), chosen.caption_idx.tolist()
    texts = sum(len(split.captions[row].encode()) for row in captions)
    used = sum(_jpeg(split, image) for image in images) + texts
    assert used == real.total(chosen.image_idx, chosen.caption_idx) <= budget
    order = torch.randperm(IMAGES, generator=make_generator(1)).tolist()
    assert images == order[: len(images)]
    if len(images) < IMAGES:
        after = order[len(images)]
        more = _jpeg(split, after)
        more += sum(len(split.captions[row].encode()) for row in real.captions_of(after))
        assert used + more > budget


def test_each_picture_brings_all_its_captions():
    split = _split()
    chosen, _ = _select(5, split)
    owners = split.caption_image_idx[chosen.caption_idx]
    assert torch.equal(owners, chosen.image_idx[chosen.text_image_idx])
    counts = torch.bincount(split.caption_image_idx)[chosen.image_idx]
    assert torch.equal(torch.bincount(chosen.text_image_idx), counts)


def test_captions_of_many_bytes_leave_room_for_fewer_pictures():
    short, _ = _select(10)
    long, _ = _select(10, _split("\u00e9" * 400))
    assert len(long.image_idx) < len(short.image_idx)


def test_bytes_of_all_pictures_take_all_and_of_one_are_refused():
    chosen, _ = _select(1000)
    assert len(chosen.image_idx) == IMAGES
    with pytest.raises(ValueError, match=r"random_equal_bytes: received 1 pairs of 1738 bytes"):
        _select(1, _split("x" * 3000))
