"""Computes what linear heads reach in closed form: the ceilings that stand beside small sets.

A head is linear in the features x of a frozen encoder, another in the texts y, and retrieval
compares their outputs by cosine. The map between them is M = (S_v + b_v)^-1 C (S_l + b_l)^-1, with
the covariances of all training pairs. Its ridges are b times the mean variance of a modality. Large
b gives the cross-covariance C, small b the map of CCA. The validation split chooses b.

In whitened coordinates the map is K = (S_v + b_v)^-1/2 C (S_l + b_l)^-1/2. Distances of maps are
taken there. A distance is the mean squared error of the similarities x M y, where features and
texts have noise of variance b_v and b_l. A map that N centred pairs alone decide has rank N - 1 at
most, in the span of their images. That holds for least squares, and for gradients from zero. So two
maps bound it in this distance. One is the nearest of that rank: a cut of the singular values of K
(Eckart and Young). The other is the nearest in the span of given images. Recall need not fall with
the distance, and heads with hidden layers are not bound at all.

Shapes: N images of F features, T texts of D numbers, R the smaller of F and D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tasks.core.evaluation.retrieval import recall
from tasks.core.foundations.records import Split
from tasks.core.training.covariances import Moments

# In units of the mean variance of a modality
RIDGES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

Score = Callable[[Tensor, Tensor, Tensor], dict[str, float]]


@dataclass(frozen=True)
class Modality:
    """The mean of one modality, and its covariance plus the ridge, decomposed; all float64.

    Attributes:
        values, vectors: eigenvalues (F,), all above 0, and eigenvectors (F, F) as columns.
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor

    def whitened(self, rows: Tensor) -> Tensor:
        """Return (M, F) rows without the mean, in coordinates of variance 1."""
        return (rows.to(self.mean) - self.mean) @ self.vectors / self.values.sqrt()

    def directions(self, rows: Tensor) -> Tensor:
        """Return the linear functions x -> x rows^T in whitened coordinates, (M, F)."""
        return rows.to(self.mean) @ self.vectors * self.values.sqrt()


@dataclass(frozen=True)
class LinearHeads:
    """Two linear heads.

    Attributes:
        img, txt: the modalities.
        core: K, the map between their whitened coordinates, (F, D).
        ridge: b, in units of the mean variance.
    """

    img: Modality
    txt: Modality
    core: Tensor
    ridge: float

    @property
    def matrix(self) -> Tensor:
        """The map M (F, D) between features and texts without their means."""
        img, txt = (one.vectors / one.values.sqrt() for one in (self.img, self.txt))
        return img @ self.core @ txt.T

    def of_rank(self, rank: int) -> LinearHeads:
        """Return the nearest heads with a map of at most this rank, 1 or more."""
        left, values, right = torch.linalg.svd(self.core, full_matrices=False)
        return replace(self, core=left[:, :rank] * values[:rank] @ right[:rank])

    def within(self, features: Tensor) -> LinearHeads:
        """Return the nearest heads with an image head in the span of these images.

        Args:
            features: (M, F), at least 2; their own mean is taken off, so they span M - 1 directions
                at most.
        """
        spanning = self.img.directions(features.double() - features.double().mean(0))
        _, values, basis = torch.linalg.svd(spanning, full_matrices=False)
        # Directions that only rounding gives are left out, as `torch.linalg.matrix_rank` does
        floor = values[0] * max(spanning.shape) * torch.finfo(values.dtype).eps
        basis = basis[values > floor]
        return replace(self, core=basis.T @ (basis @ self.core))

    def embed(self, features: Tensor, text_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return L2-normalised outputs of both heads, (N, R) and (T, R) float32.

        The map is shared evenly: each head has the square roots of its singular values.
        """
        left, values, right = torch.linalg.svd(self.core, full_matrices=False)
        img = self.img.whitened(features) @ left * values.sqrt()
        txt = self.txt.whitened(text_embeds) @ right.T * values.sqrt()
        return normalize(img, dim=1).float(), normalize(txt, dim=1).float()

    def score(self, split: Split, by: Score = recall) -> dict[str, float]:
        """Return Recall@K of a split with features in percent, see `retrieval.py`."""
        assert split.features is not None, "the image encoder is frozen"
        return by(*self.embed(split.features, split.text_embeds), split.caption_image_idx)


def heads_of(moments: Moments, ridges: tuple[float, ...] = RIDGES) -> list[LinearHeads]:
    """Return the linear heads of pairs with these moments (float64), one for each ridge."""
    img_values, img_vectors = torch.linalg.eigh(moments.img)
    txt_values, txt_vectors = torch.linalg.eigh(moments.txt)
    cross, found = img_vectors.T @ moments.cross @ txt_vectors, []
    for ridge in ridges:
        img_b, txt_b = moments.ridges(ridge)
        # Rounding gives eigenvalues a little below 0
        img = Modality(moments.img_mean, img_values.clamp_min(0) + img_b, img_vectors)
        txt = Modality(moments.txt_mean, txt_values.clamp_min(0) + txt_b, txt_vectors)
        core = cross / img.values.sqrt()[:, None] / txt.values.sqrt()
        found.append(LinearHeads(img, txt, core, ridge))
    return found


def best_heads(train: Split, val: Split) -> LinearHeads:
    """Return the linear heads of a training split, with the ridge that validation recall chooses.

    Of equal recalls the smaller ridge counts. Cost: N F^2 operations for the covariances, F^3 for
    their decomposition, and F D^2 with one scoring of the validation split for each ridge.

    Args:
        train, val: with features of a frozen encoder.
    """
    assert train.features is not None, "the image encoder is frozen"
    features, texts = train.features.double(), train.text_embeds.double()
    moments = Moments.of(features, texts, train.caption_image_idx)
    return max(heads_of(moments), key=lambda heads: heads.score(val)["mean_recall"])
