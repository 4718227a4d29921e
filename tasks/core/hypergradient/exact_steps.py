"""Keeps theta_t of a student's steps, and forms their second-order products exactly (METHOD 5)."""

from __future__ import annotations

from tasks.core.hypergradient.second_order import SecondOrder
from tasks.core.hypergradient.student_step import Batch, Product, StudentStep
from tasks.core.hypergradient.sweep import put_away, take_back
from tasks.core.networks.functional import Theta


class ExactSteps:
    """The `Steps` of the exact engines, and of `tesla`.

    Args:
        student: one step.
        is_theta_on_host: keep theta_t in pinned host memory.
        how: differentiates the gradient of a step.
        is_biased: drop lambda -= h_theta. Each step then gets dL/d(theta_T) as its lambda, as if
            theta_t were a constant for later steps (TESLA, arXiv 2211.10586).
    """

    def __init__(
        self,
        student: StudentStep,
        is_theta_on_host: bool,
        *,
        how: SecondOrder,
        is_biased: bool = False,
    ) -> None:
        self._student, self._is_on_host = student, is_theta_on_host
        self._how, self._is_biased = how, is_biased
        self._stack: list[Theta] = []

    def forward(self, theta: Theta, batch: Batch) -> Theta:
        # Only g is needed to step on. The sweep builds the graph again at the kept theta.
        grad, _ = self._student.gradient(theta, batch, with_rows=False)
        self._stack.append(put_away(theta, is_on_host=self._is_on_host))
        return grad

    def backward(self, batch: Batch, w: Theta) -> Product:
        theta = take_back(self._stack.pop(), w)
        # The stack is empty at step 0, and no earlier step asks for its h_theta
        with_theta = bool(self._stack) and not self._is_biased
        return self._student.product(theta, batch, w, self._how, with_theta=with_theta)
