"""How far the finite differences go: the gradient changes by a fixed part of itself, within bounds
around a part of |theta|.
"""

import pytest
import torch

from tasks.core.hypergradient.differences import CENTRAL, ONE_SIDED, StepLength
from tasks.core.hypergradient.student_step import Product

THETA = {"img": torch.tensor([3.0, 0.0]), "txt": torch.tensor([4.0])}  # |theta| = 5
W = {"img": torch.tensor([0.0, 6.0]), "txt": torch.tensor([8.0])}  # |w| = 10
# kind -> |eps w| / |theta| of the first product, |dg| / |g| of the later ones
KINDS = {"central": CENTRAL, "one-sided": ONE_SIDED}
EXPECTED = {"central": (5e-5, 4e-3), "one-sided": (1e-5, 7e-4)}


def product(grad: float, change: float) -> Product:
    """A product with those norms of g and of H w."""

    def along(norm: float) -> dict[str, torch.Tensor]:
        return {"img": torch.tensor([norm, 0.0]), "txt": torch.zeros(1)}

    return Product(along(grad), along(change), {})


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_length_is_a_part_of_theta(kind):
    assert float(StepLength(KINDS[kind]).eps(THETA, W)) == pytest.approx(EXPECTED[kind][0] * 5 / 10)


@pytest.mark.parametrize("kind", KINDS)
def test_later_lengths_change_the_gradient_by_a_fixed_part(kind):
    length = StepLength(KINDS[kind])
    # The right length is then that of the first rule over 3.5
    curvature = EXPECTED[kind][1] / EXPECTED[kind][0] / 5 * 7
    length.learn(
        product(grad=2.0, change=2 * curvature / 4),
        {"img": torch.tensor([0.5, 0.0]), "txt": torch.zeros(1)},
    )
    eps = float(length.eps(THETA, W))
    assert eps * 10 * curvature == pytest.approx(EXPECTED[kind][1] * 2.0)  # |eps H w| = change |g|
    assert eps < EXPECTED[kind][0] * 5 / 10


@pytest.mark.parametrize(
    ("grad", "change", "factor"),
    [(1.0, 1e9, 1 / 20), (1.0, 1e-9, 20), (1e4, 0.0, 20), (0.0, 0.0, 1 / 20)],
)
def test_lengths_stay_within_a_factor_of_twenty(grad, change, factor):
    length = StepLength(ONE_SIDED)
    length.learn(product(grad, change), W)
    assert float(length.eps(THETA, W)) == pytest.approx(factor * 1e-5 * 5 / 10)


def test_a_direction_of_zero_gives_a_finite_length():
    length, still = (
        StepLength(CENTRAL),
        {group: torch.zeros_like(value) for group, value in W.items()},
    )
    length.learn(product(1.0, 0.0), still)
    assert torch.isfinite(length.eps(THETA, still)) and torch.isfinite(
        StepLength(CENTRAL).eps(still, still)
    )


def test_double_precision_goes_less_far():
    theta, w = ({group: value.double() for group, value in part.items()} for part in (THETA, W))
    assert float(StepLength(ONE_SIDED).eps(theta, w)) == pytest.approx(5e-10 * 5 / 10)
