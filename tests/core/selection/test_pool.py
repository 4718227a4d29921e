"""Herding and k-center equal brute force on small sets, and herding moves towards the mean."""

import pytest
import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.selection.pool import check_budget, farthest_first, herd, sample_captions

POINTS = torch.randn(13, 4, generator=make_generator(0), dtype=torch.float64) + 0.5


def test_herding_equals_brute_force():
    chosen = []
    for _ in range(6):
        costs = {
            i: float((POINTS[[*chosen, i]].mean(0) - POINTS.mean(0)).norm())
            for i in range(13)
            if i not in chosen
        }
        chosen.append(min(costs, key=costs.get))
    assert herd(POINTS, 6).tolist() == chosen


def test_herding_moves_towards_the_mean():
    far = [float((POINTS[herd(POINTS, m)].mean(0) - POINTS.mean(0)).norm()) for m in (1, 4, 13)]
    assert far[0] > far[1] > far[2] == pytest.approx(0.0, abs=1e-12)


def test_k_center_equals_brute_force():
    found = farthest_first(POINTS, 6, make_generator(1)).tolist()
    for count in range(1, 6):
        free = [i for i in range(13) if i not in found[:count]]
        gaps = {i: min(float((POINTS[i] - POINTS[j]).norm()) for j in found[:count]) for i in free}
        assert found[count] == max(gaps, key=gaps.get)


def test_captions_belong_to_their_images_and_the_budget_is_checked():
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    images = torch.tensor([2, 0])
    assert torch.equal(owner[sample_captions(images, owner, make_generator(0))], images)
    with pytest.raises(ValueError, match="cannot select 4 pairs from 3 images"):
        check_budget(4, 3)
