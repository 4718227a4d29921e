"""The matching loss is normalised per group, or over both groups together."""

import pytest
import torch

from tasks.core.distillation.segments import Segment
from tasks.core.foundations.seeding import make_generator


def test_matching_loss_is_zero_at_the_target_and_two_at_the_start():
    start = {g: torch.randn(n, generator=make_generator(0, g)) for g, n in (("img", 5), ("txt", 3))}
    target = {g: v + torch.randn(v.shape, generator=make_generator(1, g)) for g, v in start.items()}
    segment = Segment.between(start, target)
    assert float(segment.loss(target)) == 0.0
    assert float(segment.loss(start)) == pytest.approx(2.0)
    assert float(Segment.between(start, target, merge_branches=True).loss(start)) == pytest.approx(
        1.0
    )


def test_a_segment_in_which_a_group_stands_still_is_refused():
    start = {"img": torch.ones(3), "txt": torch.ones(2)}
    target = {"img": torch.zeros(3), "txt": torch.ones(2)}
    with pytest.raises(
        ValueError, match="do not move, or are not finite, between start and target in txt"
    ):
        Segment.between(start, target)
    merged = Segment.between(start, target, merge_branches=True)
    assert float(merged.loss(start)) == pytest.approx(1.0)
    moved = {"img": torch.zeros(3), "txt": torch.full((2,), 3.0)}
    assert float(merged.loss(moved)) == pytest.approx(8 / 3) and {
        g: float(v) for g, v in merged.ratios(moved).items()
    } == {
        "img": 0.0,
        "txt": 0.0,
    }
    with pytest.raises(ValueError, match="in img, txt"):
        Segment.between(start, {group: value * torch.nan for group, value in target.items()})
