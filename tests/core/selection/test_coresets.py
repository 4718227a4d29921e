"""Every coreset method keeps to the contract, and forgetting counts a hand-made history right."""

import pytest
import torch

from tasks.core.foundations import plugins
from tasks.core.foundations.seeding import make_generator
from tasks.core.selection.coresets import clip_cov, forgetting, matched_prototypes
from tasks.core.selection.pool import Pool, count_forgetting


def _pool():
    def draw(name):
        return torch.nn.functional.normalize(
            torch.randn(19, 4, generator=make_generator(0, name)), dim=1
        )

    return Pool(
        torch.arange(19) * 3,
        draw("image"),
        draw("text"),
        {"counts": torch.tensor([3.0, torch.inf, 0.0, 1.0, 0.0] + [2.0] * 14)},
    )


# That of equal bytes has a number of pairs of its own: test_random_equal_bytes.py
OF_A_SIZE = [name for name in plugins.available("coresets") if name != "random_equal_bytes"]


@pytest.mark.parametrize("name", OF_A_SIZE)
def test_a_method_returns_different_pairs_with_their_captions(name):
    module = plugins.load("coresets", name)
    config = module.Config(num_epochs=3) if name == "forgetting" else module.Config()
    found = module.select(config, _pool(), 7, make_generator(1))
    assert len(set(found.image_idx.tolist())) == 7
    assert torch.equal(found.caption_idx, found.image_idx * 3)
    again = module.select(config, _pool(), 7, make_generator(1))
    assert torch.equal(found.image_idx, again.image_idx)


def test_forgetting_counts_a_hand_made_history():
    history = torch.tensor(
        [[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]], dtype=torch.bool
    )
    assert count_forgetting(history).tolist() == [2.0, torch.inf, 1.0, 0.0]


def test_forgetting_keeps_the_lowest_counts():
    found = forgetting.select(forgetting.Config(num_epochs=3), _pool(), 3, make_generator(1))
    assert sorted(found.image_idx.tolist()) == [2, 3, 4]


def test_a_pair_is_correct_when_both_directions_retrieve_it_in_its_batch():
    img = torch.eye(3)
    txt = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])

    def train(num_epochs, on_batch):
        on_batch(torch.tensor([4, 2, 0]), img, img)
        on_batch(torch.tensor([4, 2, 0]), img, txt)

    counts = forgetting.prepare(forgetting.Config(num_epochs=2), 5, train)["counts"]
    assert counts.tolist() == [0.0, torch.inf, 1.0, torch.inf, 0.0]


def test_clip_cov_takes_the_pair_that_brings_the_cross_covariance_closest():
    pool, count = _pool(), 6
    found = clip_cov.select(clip_cov.Config(), pool, count, make_generator(1)).image_idx.tolist()
    image, text = (
        features - features.mean(0) for features in (pool.image_features, pool.text_features)
    )
    products = image[:, :, None] * text[:, None, :]
    chosen = []
    for size in range(1, count + 1):
        distances = {
            row: float((products[[*chosen, row]].sum(0) / size - products.mean(0)).norm())
            for row in range(19)
            if row not in chosen
        }
        chosen.append(min(distances, key=distances.__getitem__))
    assert found == chosen


def test_clip_cov_of_all_pairs_is_all_of_them():
    found = clip_cov.select(clip_cov.Config(), _pool(), 19, make_generator(1))
    assert sorted(found.image_idx.tolist()) == list(range(19))


def _groups(shift):
    """Four groups of images, and their captions in groups that are named in another order; pair
    0 of a group is its centre.
    """
    corners = 10 * torch.eye(4)
    spread = torch.tensor([[0.0] * 4, [1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, -1, 0, 0]])
    images = (corners[:, None] + spread).flatten(0, 1)
    texts = (corners.roll(shift, 0)[:, None] + spread).flatten(0, 1)
    return Pool(torch.arange(20), images, texts)


@pytest.mark.parametrize("shift", range(4))
def test_matched_prototypes_are_the_centres_of_groups_of_both_modalities(shift):
    found = matched_prototypes.select(
        matched_prototypes.Config(), _groups(shift), 4, make_generator(3)
    )
    assert sorted(found.image_idx.tolist()) == [0, 5, 10, 15]


def test_matched_prototypes_of_equal_points_are_different_pairs():
    """All clusters but one are empty."""
    pool = Pool(torch.arange(6), torch.ones(6, 3), torch.ones(6, 3))
    config = matched_prototypes.Config()
    found = matched_prototypes.select(config, pool, 4, make_generator(1))
    assert len(set(found.image_idx.tolist())) == 4
