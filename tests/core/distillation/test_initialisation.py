"""k-means prototypes cover what a random draw misses; images and texts start independently, in
pairs that belong together.
"""

import itertools

import pytest
import torch

from tasks.core.distillation.initialisation import initial_pairs
from tasks.core.foundations.seeding import make_generator
from tasks.core.selection.k_means import k_means, prototypes
from tests.core.hypergradient.small_problem import make_encoder, make_split

CENTRES, D = 9, 5


def _clusters():
    """Points around nine centres, one of which owns most of them."""
    centres = 10 * torch.randn(CENTRES, D, generator=make_generator(0, "centres"))
    owner = torch.cat(
        [torch.zeros(300, dtype=torch.long), torch.arange(1, CENTRES).repeat_interleave(7)]
    )
    return centres[owner] + 0.1 * torch.randn(
        len(owner), D, generator=make_generator(0, "points")
    ), owner


def test_prototypes_cover_every_cluster_where_a_random_draw_misses_most():
    points, owner = _clusters()
    chosen = prototypes(points, CENTRES, make_generator(1))
    drawn = torch.randperm(len(points), generator=make_generator(1))[:CENTRES]
    assert len(chosen.unique()) == CENTRES
    assert len(owner[chosen].unique()) >= CENTRES - 1 > len(owner[drawn].unique())
    radius = [
        float(torch.cdist(points, points[rows]).min(1).values.mean()) for rows in (chosen, drawn)
    ]
    assert radius[0] < 0.5 * radius[1]


def test_centroids_are_means_of_their_points_and_the_same_at_every_call():
    points, _ = _clusters()
    found = k_means(points, 4, make_generator(2))
    assert torch.equal(found, k_means(points, 4, make_generator(2)))
    nearest = torch.cdist(points, found).argmin(1)
    for index in range(4):
        assert torch.allclose(points[nearest == index].mean(0), found[index], atol=1e-4)


def test_more_clusters_than_different_points_still_give_different_prototypes():
    assert prototypes(torch.ones(6, 2), 4, make_generator(0)).unique().numel() == 4


@pytest.mark.parametrize(
    ("image", "text"), itertools.product(["real", "noise", "k_means"], repeat=2)
)
@pytest.mark.parametrize("is_frozen", [True, False])
def test_modalities_start_independently(image, text, is_frozen):
    encoder = make_encoder()
    split = make_split(encoder=encoder if is_frozen else None)
    start = initial_pairs(split, encoder, 5, image=image, text=text, seed=4)
    pixels = torch.from_numpy(split.images[start.image_idx.numpy()]).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.allclose(start.images, pixels, atol=1e-5) == (image != "noise")
    assert torch.equal(start.text_embeds, split.text_embeds[start.caption_idx]) == (text != "noise")
    assert torch.equal(split.caption_image_idx[start.caption_idx], start.image_idx), (
        "image and caption are of one pair"
    )
    plain = initial_pairs(split, encoder, 5, image="real", text="real", seed=4)
    assert torch.equal(start.image_idx, plain.image_idx) == ("k_means" not in (image, text))
    again = initial_pairs(split, encoder, 5, image=image, text=text, seed=4)
    assert torch.equal(again.images, start.images) and torch.equal(
        again.text_embeds, start.text_embeds
    )


def test_all_pairs_can_be_prototypes():
    split = make_split(encoder=make_encoder())
    start = initial_pairs(split, make_encoder(), 23, image="k_means", text="k_means", seed=4)
    assert sorted(start.image_idx.tolist()) == list(range(23))
