"""The losses equal their formulas written out."""

import math

import pytest
import torch
from torch.nn import functional

from tasks.core.foundations.seeding import make_generator
from tasks.core.training.losses import info_nce
from tasks.core.training.student_losses import soft_contrastive


def _embeddings(batch=5, d=3):
    return [
        functional.normalize(
            torch.randn(batch, d, generator=make_generator(0, n), dtype=torch.float64), dim=1
        )
        for n in "it"
    ]


@pytest.mark.parametrize("include_positive", [True, False])
def test_info_nce_equals_its_sum(include_positive):
    img, txt = _embeddings()
    z = (img @ txt.T / 0.07).exp()
    total = 0.0
    for i in range(5):
        rows = [j for j in range(5) if include_positive or j != i]
        total += -torch.log(z[i, i] / z[i, rows].sum()) - torch.log(z[i, i] / z[rows, i].sum())
    assert float(info_nce(img, txt, include_positive=include_positive)) == pytest.approx(
        float(total) / 10
    )


def test_ence_with_identity_is_info_nce():
    img, txt = _embeddings()
    soft = soft_contrastive("ence", img, txt, torch.eye(5, dtype=torch.float64))
    assert float(soft) == pytest.approx(float(info_nce(img, txt)))


def test_wbce_weighs_positives_and_negatives_equally():
    img, txt = _embeddings()
    s = torch.eye(5, dtype=torch.float64)
    p = torch.sigmoid(img @ txt.T / 0.07)
    positive = torch.stack([-torch.log(p[i, i]) for i in range(5)]).mean()
    negative = torch.stack(
        [-torch.log1p(-p[i, j]) for i in range(5) for j in range(5) if i != j]
    ).mean()
    assert float(soft_contrastive("wbce", img, txt, s)) == pytest.approx(
        float(positive + negative) / 2
    )


def test_a_single_pair_without_its_positive_is_refused():
    img, txt = _embeddings()
    with pytest.raises(ValueError, match="at least 2 pairs"):
        info_nce(img[:1], txt[:1], include_positive=False)


WEIGHTS = [3, 1, 2, 1, 4]


@pytest.mark.parametrize("include_positive", [True, False])
def test_equal_weights_change_nothing(include_positive):
    img, txt = _embeddings()
    plain = info_nce(img, txt, include_positive=include_positive)
    for level in (0.0, 1.7):
        weights = torch.full((5,), level, dtype=torch.float64)
        found = info_nce(img, txt, include_positive=include_positive, log_weights=weights)
        assert float(found) == pytest.approx(float(plain), rel=1e-12)


def test_weighted_info_nce_without_its_positive_equals_its_sum():
    img, txt = _embeddings()
    share = torch.tensor(WEIGHTS, dtype=torch.float64) * 5 / sum(WEIGHTS)
    z = (img @ txt.T / 0.07).exp()
    total = 0.0
    for i in range(5):
        rows = [j for j in range(5) if j != i]
        i2t, t2i = (share[rows] * z[i, rows]).sum(), (share[rows] * z[rows, i]).sum()
        total += share[i] * -(torch.log(z[i, i] / i2t) + torch.log(z[i, i] / t2i))
    found = info_nce(img, txt, include_positive=False, log_weights=share.log() + 0.3)
    assert float(found) == pytest.approx(float(total) / 10, rel=1e-12)


def test_whole_weights_are_a_batch_that_holds_each_pair_so_often():
    """The loss differs by the logarithm of the mean weight, since weights count relative to it; the
    gradient is the same.
    """
    counts = torch.tensor(WEIGHTS)
    leaves = [value.requires_grad_() for value in _embeddings()]
    often = info_nce(*(value.repeat_interleave(counts, 0) for value in leaves))
    expected = torch.autograd.grad(often, leaves)
    found = info_nce(*leaves, log_weights=counts.double().log())
    expected_loss = often.item() - math.log(11 / 5)
    assert found.item() == pytest.approx(expected_loss, rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(found, leaves), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_weights_is_that_of_differences():
    img, txt = _embeddings()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64).log().requires_grad_()
    assert torch.autograd.gradcheck(lambda at: info_nce(img, txt, log_weights=at), weights)
    assert torch.autograd.gradgradcheck(lambda at: info_nce(img, txt, log_weights=at), weights)
