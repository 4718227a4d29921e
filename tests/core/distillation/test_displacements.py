"""Displacements of experts, the start ranges of AMD and the straight trajectory of PTM-ST."""

import pytest
import torch

from tasks.core.distillation.displacements import (
    displacements,
    on_straight_line,
    shares_of_way,
    start_ranges,
)
from tasks.core.foundations.seeding import make_generator
from tests.core.hypergradient.small_problem import make_problem


@pytest.mark.parametrize("trainable", ["heads", "text_head"])
def test_displacements_are_the_lengths_of_each_layer_by_hand(tmp_path, trainable):
    problem = make_problem(tmp_path, trainable)
    found = displacements(problem.flat, problem.buffer, 1, 3)
    for group in ("img", "txt"):
        sizes = problem.flat.layers(group)
        assert found[group].shape == (3, len(sizes))
        for epoch in (1, 2, 3):
            one = problem.buffer.snapshot(1, epoch - 1)[group].tolist()
            other = problem.buffer.snapshot(1, epoch)[group].tolist()
            for layer, size in enumerate(sizes):
                begin = sum(sizes[:layer])
                total = 0.0
                for index in range(begin, begin + size):
                    total += (other[index] - one[index]) ** 2
                assert float(found[group][epoch - 1, layer]) == pytest.approx(total**0.5, rel=1e-5)


def _lengths(img, txt):
    """One layer of images, and two of texts with the length of a group of each epoch."""
    second = torch.tensor(txt, dtype=torch.float64)[:, None]
    texts = torch.cat([0.6 * second, 0.8 * second], dim=1)
    return {"img": torch.tensor(img, dtype=torch.float64)[:, None], "txt": texts}


@pytest.mark.parametrize(
    ("img", "txt", "expected"),
    [
        # Ratios 1, 2, 3, 4 with the median 2.5: texts until it is crossed, images beyond
        ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0], {"img": 3, "txt": 2}),
        # 1, 2, 4: an odd number, and the median is one of them
        ([1.0, 1.0, 1.0], [1.0, 0.5, 0.25], {"img": 3, "txt": 2}),
        # 4, 1, 3, 2: neither rises nor falls
        ([4.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0], {"img": 1, "txt": 4}),
        # All equal: none is above the median
        ([2.0, 2.0], [1.0, 1.0], {"img": 2, "txt": 2}),
        # A text group that stands still
        ([1.0, 1.0, 1.0], [1.0, 0.0, 0.0], {"img": 3, "txt": 3}),
    ],
)
def test_start_ranges_end_where_the_ratio_crosses_its_median(img, txt, expected):
    assert start_ranges(_lengths(img, txt)) == expected


def test_shares_rise_from_0_to_1_and_are_sums_by_hand_at_epochs():
    lengths = torch.tensor([[3.0, 0.0], [1.0, 0.0], [4.0, 0.0], [8.0, 5.0]], dtype=torch.float64)
    assert shares_of_way(lengths, 2.0, 3).tolist() == [0.5, 0.0]
    assert shares_of_way(lengths, 2.5, 3).tolist() == [0.75, 0.0]
    assert shares_of_way(lengths, 2, 4).tolist() == [0.25, 0.0]
    many = torch.rand(5, 3, generator=make_generator(0), dtype=torch.float64)
    before = shares_of_way(many, 0.0, 5)
    assert before.tolist() == [0.0, 0.0, 0.0]
    for step in range(1, 51):
        now = shares_of_way(many, step / 10, 5)
        assert (now >= before).all()
        before = now
    assert before.tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_a_straight_line_has_each_layer_at_its_share():
    layers = [2, 3]
    first, last = (torch.randn(5, generator=make_generator(0, name)) for name in "ab")
    for share in (0.0, 1.0):
        shares = torch.full((2,), share, dtype=torch.float64)
        end = last if share else first
        assert torch.equal(on_straight_line(first, last, shares, layers), end)
    found = on_straight_line(first, last, torch.tensor([0.25, 0.5]), layers)
    weights = torch.tensor([0.25, 0.25, 0.5, 0.5, 0.5])
    torch.testing.assert_close(found, (1 - weights) * first + weights * last)
    empty = torch.empty(0)
    assert on_straight_line(empty, empty, torch.empty(0), []).shape == (0,)
