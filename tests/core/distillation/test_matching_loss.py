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


def test_the_norm_is_the_root_of_each_ratio_and_has_a_gradient():
    start, target, theta = {}, {}, {}
    for group, size in (("img", 5), ("txt", 3)):
        for name, where in (("start", start), ("target", target), ("theta", theta)):
            generator = make_generator(0, group, name)
            where[group] = torch.randn(size, generator=generator, dtype=torch.float64)
    squared = Segment.between(start, target)
    norm = Segment.between(start, target, distance="norm")
    roots = [float(ratio) ** 0.5 for ratio in squared.ratios(theta).values()]
    assert float(norm.loss(theta)) == pytest.approx(sum(roots))
    merged = Segment.between(start, target, merge_branches=True, distance="norm")
    lengths = [float((start[group] - target[group]).norm()) for group in start]
    ends = [float((theta[group] - target[group]).norm()) for group in start]
    assert float(merged.loss(theta)) == pytest.approx(sum(ends) / sum(lengths))

    def loss(img, txt):
        return norm.loss({"img": img, "txt": txt})

    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in theta.values()])
    # At the target itself it has no kink that would give NaN
    at_target = {group: value.clone().requires_grad_() for group, value in target.items()}
    norm.loss(at_target).backward()
    assert float(at_target["img"].grad.abs().max()) == 0.0
