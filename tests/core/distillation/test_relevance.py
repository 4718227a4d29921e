"""The range of a cross-covariance, energies and the transport of relevances."""

import pytest
import torch

from tasks.core.distillation.relevance import energy_of, matching, range_of, transport, transported
from tasks.core.foundations.seeding import make_generator


def _pairs(name, count=6, width=5, share=0.0):
    img = torch.randn(count, width, generator=make_generator(0, name, "img"), dtype=torch.float64)
    txt = torch.randn(count, width, generator=make_generator(0, name, "txt"), dtype=torch.float64)
    return img, txt + share * img


@pytest.mark.parametrize("count", [4, 9])
def test_the_range_is_that_of_the_svd_of_the_whole_matrix(count):
    img, txt = _pairs("real", count, 7)
    cross = (img - img.mean(0)).T @ (txt - txt.mean(0)) / (count - 1)
    left, sigma, right = torch.linalg.svd(cross)
    shares = sigma.square().cumsum(0) / sigma.square().sum()
    for share in (0.5, 0.95):
        k = 1
        while float(shares[k - 1]) < share:
            k += 1
        found = range_of(img, txt, share)
        assert found.img.shape == found.txt.shape == (7, k)
        for basis, whole in ((found.img, left[:, :k]), (found.txt, right[:k].T)):
            torch.testing.assert_close(basis @ basis.T, whole @ whole.T)
    assert range_of(img, txt, 1.0).img.shape[1] <= min(count, 7)


def test_inside_and_outside_the_range_make_up_the_whole():
    real, other = _pairs("real"), _pairs("other")
    found = range_of(*real, 0.7)
    inside, outside = found.inside(*other), found.outside(*other)
    bases = (found.img, found.txt)
    for value, part, rest, basis in zip(other, inside, outside, bases, strict=True):
        torch.testing.assert_close(part @ basis.T + rest, value)
        assert float((rest @ basis).abs().max()) < 1e-12


def test_an_energy_is_the_mean_square_of_the_cross_covariance():
    img, txt = _pairs("a")[0], _pairs("b", width=3)[1]
    cross = (img - img.mean(0)).T @ (txt - txt.mean(0)) / (len(img) - 1)
    torch.testing.assert_close(energy_of(img, txt), cross.square().mean())


def test_a_transport_has_even_margins_and_finds_a_hidden_order():
    cost = torch.rand(5, 5, generator=make_generator(1), dtype=torch.float64) + 1.0
    order = torch.tensor([3, 0, 4, 1, 2])
    cost[torch.arange(5), order] = 0.0
    found = transport(cost, 0.05)
    even = torch.full((5,), 0.2, dtype=torch.float64)
    torch.testing.assert_close(found.sum(dim=0), even)
    torch.testing.assert_close(found.sum(dim=1), even, rtol=1e-3, atol=1e-4)
    assert found.argmax(dim=1).tolist() == order.tolist()
    plain = transport(cost, 1e6)
    torch.testing.assert_close(plain, torch.full_like(cost, 1 / 25), rtol=1e-4, atol=0.0)


def test_matching_is_the_sum_by_hand_and_has_the_gradient_of_differences():
    synthetic, real = _pairs("syn"), _pairs("real")
    tau, entropy, expected = 0.5, 0.1, 0.0
    found = synthetic[0] @ synthetic[1].T / tau
    wanted = real[0] @ real[1].T / tau
    for q_logits, p_logits in ((found, wanted), (found.T, wanted.T)):
        q, p = q_logits.softmax(dim=1), p_logits.softmax(dim=1)
        cost = torch.zeros(6, 6, dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                cost[i, j] = sum(q[i, n] * (q[i, n] / p[j, n]).log() for n in range(6))
        expected += 0.5 * float((transport(cost, entropy) * cost).sum())
    assert float(matching(synthetic, real, tau=tau, entropy=entropy)) == pytest.approx(expected)
    # Even transport does not depend on the cost, so that differences see the whole gradient
    even = {"tau": tau, "entropy": 1e9}
    leaf = synthetic[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda img: matching((img, synthetic[1]), real, **even), leaf)


def test_real_pairs_match_themselves_also_where_their_images_come_in_another_order():
    """Rows are transported; columns stay, so the texts keep their order."""
    img, txt = _pairs("real", share=2.0)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    how = {"tau": 0.5, "entropy": 0.01}
    other = float(matching(_pairs("other", share=2.0), (img, txt), **how))
    assert float(matching((img, txt), (img, txt), **how)) < 0.01 * other
    found, wanted = img[order] @ txt.T / 0.5, img @ txt.T / 0.5
    assert float(transported(found, wanted, 0.01)) < 0.01 * other
