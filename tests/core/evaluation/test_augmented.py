"""Augmented pictures of a set: new crops under a trained encoder, stored views under a frozen
one.
"""

import torch

from tasks.core.evaluation.augmented import AugmentedPairs, augmented
from tasks.core.foundations.seeding import make_generator
from tasks.core.training.pair_set import PairSet, SetPairs

CPU = torch.device("cpu")


def made():
    draw = make_generator(4)
    images, texts = torch.randn(7, 3, 8, 8, generator=draw), torch.randn(11, 5, generator=draw)
    owner = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 6])
    return PairSet(images, texts, (0.5,) * 3, (0.5,) * 3, text_image_idx=owner)


def generators():
    return make_generator(1, "captions"), make_generator(1, "pictures")


def test_a_trained_encoder_sees_new_crops_and_the_texts_of_the_set():
    plain = SetPairs(made(), device=CPU)
    pairs, rows = AugmentedPairs(plain, None), torch.tensor([5, 0, 3, 6])
    images, texts = plain.take(rows, *generators())
    captions, pictures = generators()
    seen, read = pairs.take(rows, captions, pictures)
    assert pairs.num_pairs == 7 and torch.equal(read, texts)
    assert torch.equal(seen, augmented(images, make_generator(1, "pictures")))
    again, _ = pairs.take(rows, captions, pictures)
    assert seen.shape == again.shape == images.shape
    assert not torch.equal(seen, images) and not torch.equal(seen, again)


def test_a_crop_or_a_mirror_makes_no_new_colour():
    images = torch.full((9, 3, 8, 8), 0.25)
    assert torch.allclose(augmented(images, make_generator(0)), images)


def test_a_frozen_encoder_sees_views_of_the_image_itself_all_about_as_often():
    features, views = torch.zeros(7, 1), torch.arange(3 * 7).float().view(3, 7, 1)
    pairs = AugmentedPairs(SetPairs(made(), device=CPU, features=features), views)
    captions, pictures = generators()
    rows, counts = torch.tensor([5, 0, 3, 6]), torch.zeros(3)
    for _ in range(300):
        seen, _ = pairs.take(rows, captions, pictures)
        drawn = seen[:, 0].long() // 7
        assert torch.equal(views[drawn, rows], seen)
        counts += drawn.bincount(minlength=3)
    # 400 of 1,200 each, with a standard deviation of 16
    assert (counts - 400).abs().max() < 80
