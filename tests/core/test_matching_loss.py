"""The matching loss is normalised per group, or over both groups together."""

import pytest
import torch

from tasks.core.matching import matching_loss
from tasks.core.seeding import make_generator


def test_matching_loss_is_zero_at_the_target_and_two_at_the_start():
    start = {g: torch.randn(n, generator=make_generator(0, g)) for g, n in (("img", 5), ("txt", 3))}
    target = {g: v + torch.randn(v.shape, generator=make_generator(1, g)) for g, v in start.items()}
    assert float(matching_loss(target, start, target)) == 0.0
    assert float(matching_loss(start, start, target)) == pytest.approx(2.0)
    assert float(matching_loss(start, start, target, merge_branches=True)) == pytest.approx(1.0)
