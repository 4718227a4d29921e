"""The losses equal their formulas written out."""

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
