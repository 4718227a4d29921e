"""Says which texts of a batch are relevant to its images, in two subspaces, and transports that
from real to synthetic pairs (RAHA, arXiv 2606.29464).

X and Y are the embeddings of images and texts, (B, d). The cross-covariance of real pairs is C = U
diag(sigma) V^T. Its first k singular vectors span the range, with the smallest k whose squares
sigma^2 make up the share rho of all. The residual is what the range leaves of X and Y.

Row i of a relevance is softmax_j(x_i . y_j / tau_r). Synthetic rows q and real rows p have no order
in common. So entropic optimal transport T pairs them: L = sum_ij T_ij KL(q_i | p_j).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SINKHORN_STEPS = 20
_LEAST = 1e-12


@dataclass(frozen=True)
class Range:
    """The range of a cross-covariance: U_k (d, k) of images and V_k (d, k) of texts."""

    img: Tensor
    txt: Tensor

    def inside(self, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coordinates X U_k and Y V_k, each (B, k)."""
        return img @ self.img, txt @ self.txt

    def outside(self, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residuals X - X U_k U_k^T and Y - Y V_k V_k^T, each (B, d)."""
        return img - img @ self.img @ self.img.T, txt - txt @ self.txt @ self.txt.T


def range_of(img: Tensor, txt: Tensor, share: float) -> Range:
    """Return the range of the cross-covariance of images and texts (B, d).

    C has at most rank B - 1. So its singular vectors come from a (B, B) matrix, by the QR
    decompositions of both factors, and not from (d, d).

    Args:
        share: rho, 0..1.
    """
    q_img, r_img = torch.linalg.qr(_centred(img).T)
    q_txt, r_txt = torch.linalg.qr(_centred(txt).T)
    left, sigma, right = torch.linalg.svd(r_img @ r_txt.T)
    energy = sigma.square().cumsum(dim=0)
    # The first k with energy_k >= share of all; rounding must not ask for more than there are
    k = min(int((energy < share * energy[-1]).sum()) + 1, len(sigma))
    return Range(q_img @ left[:, :k], q_txt @ right[:k].T)


def energy_of(img: Tensor, txt: Tensor) -> Tensor:
    """Return the mean square of the elements of a cross-covariance, a scalar.

    |X^T Y|^2 = sum of (X X^T) * (Y Y^T), so that no (d, d) matrix is needed.
    """
    img, txt = _centred(img), _centred(txt)
    total = ((img @ img.T) * (txt @ txt.T)).sum()
    return total / (len(img) - 1) ** 2 / (img.shape[1] * txt.shape[1])


def matching(
    synthetic: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor], *, tau: float, entropy: float
) -> Tensor:
    """Return the transported divergence of both relevances, the mean of both directions.

    Args:
        synthetic, real: images and texts in one subspace, (B, k); both have as many rows.
        tau: temperature tau_r of a relevance.
        entropy: of the transport, in units of the mean cost.
    """
    found = synthetic[0] @ synthetic[1].T / tau
    wanted = real[0] @ real[1].T / tau
    directions = ((found, wanted), (found.T, wanted.T))
    losses = [transported(one, other, entropy) for one, other in directions]
    return 0.5 * (losses[0] + losses[1])


def transport(cost: Tensor, entropy: float) -> Tensor:
    """Return the coupling of rows and columns of a cost (N, M), by Sinkhorn's steps in logarithms.

    A row has the mass 1 / N, a column 1 / M.
    """
    scaled = -cost / cost.mean().clamp(min=_LEAST) / entropy
    rows, columns = (-math.log(count) for count in cost.shape)
    u, v = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
    for _ in range(_SINKHORN_STEPS):
        u = rows - torch.logsumexp(scaled + v, dim=1)
        v = columns - torch.logsumexp(scaled + u[:, None], dim=0)
    return (scaled + u[:, None] + v).exp()


def transported(found: Tensor, wanted: Tensor, entropy: float) -> Tensor:
    """Return sum_ij T_ij KL(q_i | p_j) of two logits (B, B), of synthetic and of real pairs, a
    scalar. T is a constant of the gradient.
    """
    log_q, log_p = found.log_softmax(dim=1), wanted.log_softmax(dim=1)
    q = log_q.exp()
    cost = (q * log_q).sum(dim=1, keepdim=True) - q @ log_p.T
    return (transport(cost.detach(), entropy) * cost).sum()


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=0)
