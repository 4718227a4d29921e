"""Covariances and the map that they give, against brute force, least squares and differences."""

import pytest
import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.training.covariances import Moments, RealMap, mean_terms, pair_cross, pair_map

OWNER = torch.tensor([0, 1, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8])


def _rows(name, *shape):
    return torch.randn(*shape, generator=make_generator(0, name), dtype=torch.float64)


def _real(num_features=4, num_texts=3):
    return _rows("x", 9, num_features), _rows("y", len(OWNER), num_texts)


def test_moments_are_those_of_every_caption_with_its_image():
    features, texts = _real()
    found, x = Moments.of(features, texts, OWNER), features[OWNER]
    both = torch.cov(torch.cat([x, texts], 1).T)
    assert torch.allclose(found.img, both[:4, :4]) and torch.allclose(found.txt, both[4:, 4:])
    assert torch.allclose(found.cross, both[:4, 4:])
    assert torch.allclose(found.img_mean, x.mean(0)) and torch.allclose(
        found.txt_mean, texts.mean(0)
    )
    assert torch.allclose(pair_cross(x, texts), found.cross)
    assert [float(term) for term in mean_terms(x, texts, found)] == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("b", [0.01, 1.0, 50.0])
def test_the_map_of_pairs_is_the_map_of_the_definition(b):
    """Systems of M rows and decompositions against plain inverses of covariances."""
    features, texts = _real()
    moments = Moments.of(features, texts, OWNER)
    img_b, txt_b = moments.ridges(b)
    assert float(img_b) == pytest.approx(b * float(torch.trace(moments.img)) / 4)
    eye = torch.eye(4, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    left = torch.linalg.inv(moments.img + img_b * eye[0])
    right = torch.linalg.inv(moments.txt + txt_b * eye[1])
    expected = img_b * txt_b * left @ moments.cross @ right
    assert torch.allclose(RealMap(moments).at(b), expected)
    assert torch.allclose(pair_map(features[OWNER], texts, (img_b, txt_b)), expected)


def test_a_large_ridge_leaves_the_cross_covariance_and_a_small_one_least_squares():
    features, texts = _real()
    x = features[OWNER]
    large, small = torch.tensor(1e9).double(), torch.tensor(1e-9).double()
    assert torch.allclose(pair_map(x, texts, (large, large)), pair_cross(x, texts), rtol=1e-6)
    # With no ridge on images and none worth naming on texts: the least-squares map to texts
    centred, targets = x - x.mean(0), texts - texts.mean(0)
    expected = torch.linalg.lstsq(centred, targets).solution
    assert torch.allclose(pair_map(x, texts, (small, large)) / small, expected, rtol=1e-5)


def test_the_gradient_of_the_map_is_that_of_differences():
    x, y = _rows("a", 6, 4).requires_grad_(), _rows("b", 6, 3).requires_grad_()
    ridges = torch.tensor(0.3).double(), torch.tensor(0.7).double()
    assert torch.autograd.gradcheck(lambda x, y: pair_map(x, y, ridges), (x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_images_and_captions_that_do_not_vary_are_refused(dtype, value):
    features, texts = (rows.to(dtype) for rows in _real())
    with pytest.raises(ValueError, match="captions: received 15 equal vectors"):
        Moments.of(features, torch.full_like(texts, value), OWNER)
    with pytest.raises(ValueError, match="images: received 9 equal vectors"):
        Moments.of(torch.full_like(features, value), texts, OWNER)
    nearly = torch.full_like(texts, value)
    nearly[0] += 0.01 * max(value, 1.0)
    assert Moments.of(features, nearly, OWNER).txt.isfinite().all()
    nearly[1] = torch.nan
    with pytest.raises(ValueError, match="captions: received vectors that are not finite"):
        Moments.of(features, nearly, OWNER)
