"""Computes covariances of image features and texts, and the linear map that they give: for the
methods `cov_match` and `spectral`, and for the ceilings of linear heads.

Shapes: N images of F features, T pairs with texts of D numbers; X (T, F) and Y (T, D) are the rows
of the pairs without their means, and every covariance is divided by T - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Means and covariances of pairs.

    Attributes:
        img_mean, txt_mean: (F,) and (D,).
        img, txt: covariance within each modality, (F, F) and (D, D).
        cross: covariance between them, (F, D).
    """

    img_mean: Tensor
    txt_mean: Tensor
    img: Tensor
    txt: Tensor
    cross: Tensor

    @staticmethod
    def of(features: Tensor, text_embeds: Tensor, owner: Tensor) -> Moments:
        """Return the moments of real pairs, in the dtype of the features.

        Args:
            features: (N, F).
            text_embeds: (T, D).
            owner: (T,) the image of each text: an image counts as often as it has texts.

        Raises:
            ValueError: images or texts do not vary, or are not finite.
        """
        counts = torch.bincount(owner, minlength=len(features)).to(features)
        num_pairs = len(text_embeds)
        img_mean, txt_mean = counts @ features / num_pairs, text_embeds.mean(0)
        x, y = features - img_mean, text_embeds - txt_mean
        _check_varied(x, features, "images", "`model.image_encoder`")
        _check_varied(y, text_embeds, "captions", "`embed_captions.text_encoder`")
        # Images are not repeated for their texts, which would take several times the memory
        texts = torch.zeros(len(features), y.shape[1]).to(y).index_add_(0, owner, y)
        scale = 1.0 / (num_pairs - 1)
        return Moments(
            img_mean,
            txt_mean,
            scale * x.T @ (counts[:, None] * x),
            scale * y.T @ y,
            scale * x.T @ texts,
        )

    def ridges(self, b: float) -> tuple[Tensor, Tensor]:
        """Return b_v and b_l: b times the mean variance of each modality."""
        return b * self.img.diagonal().mean(), b * self.txt.diagonal().mean()


class RealMap:
    """The map of `pair_map` of real pairs for any b, from one decomposition of each covariance.

    Args:
        moments: of the real pairs; float64 keeps small variances apart from zero.
    """

    def __init__(self, moments: Moments) -> None:
        self._moments = moments
        self._img_values, self._img = torch.linalg.eigh(moments.img)
        self._txt_values, self._txt = torch.linalg.eigh(moments.txt)
        self._cross = self._img.T @ moments.cross @ self._txt

    def at(self, b: float) -> Tensor:
        """Return b_v b_l (S_v + b_v)^-1 C (S_l + b_l)^-1, (F, D)."""
        img_b, txt_b = self._moments.ridges(b)
        img = img_b / (self._img_values + img_b)
        txt = txt_b / (self._txt_values + txt_b)
        return self._img @ (img[:, None] * self._cross * txt) @ self._txt.T


def pair_cross(features: Tensor, text_embeds: Tensor) -> Tensor:
    """Return the cross-covariance (F, D) of M pairs, differentiable."""
    x, y = _centred(features), _centred(text_embeds)
    return x.T @ y / (len(x) - 1)


def pair_map(features: Tensor, text_embeds: Tensor, ridges: tuple[Tensor, Tensor]) -> Tensor:
    """Return b_v b_l (S_v + b_v)^-1 C (S_l + b_l)^-1 of M pairs, (F, D), differentiable.

    With large b it is the cross-covariance C, with small b the map of least squares in both
    directions (CCA). The systems have M rows: (X^T X + b)^-1 X^T = X^T (X X^T + b)^-1.

    Args:
        features: (M, F).
        text_embeds: (M, D).
        ridges: b_v and b_l, above 0.
    """
    x, y = _centred(features), _centred(text_embeds)
    scale = 1.0 / (len(x) - 1)
    img_b, txt_b = (value.to(x) for value in ridges)
    left = img_b * _inverse_left(scale * x @ x.T, img_b, x).T
    return scale * left @ (txt_b * _inverse_left(scale * y @ y.T, txt_b, y))


def mean_terms(features: Tensor, text_embeds: Tensor, real: Moments) -> tuple[Tensor, Tensor]:
    """Return |mean of the pairs - mean of the real ones|^2 of images and of texts, scalars."""
    img = (features.mean(0) - real.img_mean.to(features)).square().sum()
    txt = (text_embeds.mean(0) - real.txt_mean.to(text_embeds)).square().sum()
    return img, txt


def _check_varied(centred: Tensor, rows: Tensor, what: str, encoder: str) -> None:
    if not centred.isfinite().all():
        raise ValueError(
            f"{what}: received vectors that are not finite; allowed are finite numbers; change "
            f"the data, or {encoder} in params.yaml"
        )
    # The mean of equal rows is theirs up to rounding
    if centred.abs().max() <= 8 * torch.finfo(rows.dtype).eps * rows.abs().max():
        raise ValueError(
            f"{what}: received {len(rows)} equal vectors; needed are at least two that differ, "
            f"since equal ones have no covariance; change the data, or {encoder} in params.yaml"
        )


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(0)


def _inverse_left(gram: Tensor, b: Tensor, right: Tensor) -> Tensor:
    """Return (gram + b)^-1 right."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + b * eye, right)
