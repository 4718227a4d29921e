"""score: Recall@K of anybody's embeddings, with ragged captions and ties (METHOD 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.evaluation.retrieval import TieReport, ties
from tasks.core.foundations.names import hint
from tasks.exchange.arrays import ROLES, Place, names_of, read_array, read_integers

IMAGES, TEXTS, OWNERS = ROLES
SIMILARITIES = ("cosine", "inner")
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Rows are scaled to about 1. Two rows of 2**-60 have a product of 2**-120, which is above 2**-126,
# the least float32 with all its digits.
_LEAST = 2.0**-60


@dataclass(frozen=True)
class Embedded:
    """Embeddings to score, checked.

    Attributes:
        images: (N, d) of a float type.
        texts: (T, d) of a float type.
        owners: (T,) int64, the image of each caption.
    """

    images: Tensor
    texts: Tensor
    owners: Tensor

    @property
    def captions_per_image(self) -> tuple[int, int]:
        """Least and most."""
        counts = self.owners.bincount()
        return int(counts.min()), int(counts.max())


def read_embeddings(files: Sequence[str], mapping: str | None) -> Embedded:
    """Return embeddings of one safetensors file that holds all, or of a file of images and one of
    texts with a mapping.

    Raises:
        ValueError: wrong shapes or types, values that are not finite, a mapping that does not fit.
        FileNotFoundError: a file is not there.
    """
    if not 1 <= len(files) <= 2:
        raise ValueError(
            f"EMBEDDINGS: received {len(files)} files; allowed is one .safetensors with {IMAGES} "
            f"and {TEXTS}, or two, of images and of texts; change EMBEDDINGS"
        )
    places = [Place.parse(file) for file in files]
    if len(places) == 1:
        _check_all(places[0], mapping)
        places = [Place(places[0].path, name) for name in (IMAGES, TEXTS)]
    # One file with everything may have the mapping beside it in another one
    where = Place.parse(mapping) if mapping else Place(places[0].path, OWNERS)
    if mapping is None and len(files) == 2:
        raise ValueError(
            "--mapping: received none; allowed is a .json, .csv, .npy, .safetensors or .parquet "
            "with the image of each caption: it is not guessed; give --mapping"
        )
    images, texts = (
        _embeddings(read_array(place, name), place, name)
        for place, name in zip(places, (IMAGES, TEXTS), strict=True)
    )
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"{places[1]}: received {texts.shape[1]} numbers a caption, beside "
            f"{images.shape[1]} an image in {places[0]}; allowed is one width; change a file"
        )
    return Embedded(images, texts, _owners(where, len(images), len(texts)))


def check_similarity(similarity: str) -> None:
    """Raise ValueError for a name that is not in `SIMILARITIES`; before files are read."""
    if similarity not in SIMILARITIES:
        raise ValueError(
            f"--similarity: received {similarity!r}{hint(similarity, SIMILARITIES)}; allowed: "
            f"{', '.join(SIMILARITIES)}; change --similarity"
        )


def score(given: Embedded, similarity: str) -> TieReport:
    """Return the recalls of METHOD 8, with ties as hits, in random order, and as misses.

    Args:
        similarity: `cosine`, or `inner` for inner products of the embeddings as they are.

    Raises:
        ValueError: another similarity, or lengths too different for `inner`.
    """
    check_similarity(similarity)
    images, texts = given.images, given.texts
    kind = torch.promote_types(images.dtype, texts.dtype)
    scale = _units if similarity == "cosine" else _scaled
    # Scaled as float64, then compared in the wider type of both files, at least float32
    images, texts = (
        scale(value.double()).to(torch.promote_types(kind, torch.float32))
        for value in (images, texts)
    )
    return ties(images, texts, given.owners)


def _units(rows: Tensor) -> Tensor:
    """Return rows of length 1."""
    # Over the largest number first: squares of very large or very small ones leave the floats
    rows = rows / rows.abs().amax(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True)


def _scaled(rows: Tensor) -> Tensor:
    """Return all rows over one power of 2, which leaves the order of inner products as it is.

    Raises:
        ValueError: the shortest row would vanish beside the longest.
    """
    largest = rows.abs().amax(1)
    rows = rows / math.ldexp(1.0, math.frexp(float(largest.max()))[1] - 1)
    if float(rows.abs().amax(1).min()) < _LEAST:
        raise ValueError(
            f"--similarity: received 'inner' with rows of {float(largest.min()):.3g} to "
            f"{float(largest.max()):.3g}, by their largest number; allowed is a ratio below "
            "2**60; change --similarity to cosine, or the file"
        )
    return rows


def _check_all(place: Place, mapping: str | None) -> None:
    """Refuse one file that does not hold everything."""
    needed = {IMAGES, TEXTS} if mapping else {IMAGES, TEXTS, OWNERS}
    if not place.path.exists():
        raise FileNotFoundError(f"{place.path} is not there; change EMBEDDINGS")
    is_tensors = place.path.suffix.lower() == ".safetensors"
    names = names_of(place.path) if is_tensors else []
    if place.key or not needed <= set(names):
        raise ValueError(
            f"{place}: received {', '.join(names) or 'one file of another kind'}; allowed alone is "
            f"a .safetensors with {', '.join(sorted(needed))}; give two files and --mapping"
        )


def _embeddings(found: Tensor, place: Place, name: str) -> Tensor:
    if found.ndim != 2 or not found.numel() or found.dtype not in TYPES:
        raise ValueError(
            f"{place}: {name}: received {tuple(found.shape)} of {found.dtype}; allowed is (rows, "
            "width) of float16, bfloat16, float32 or float64; change the file"
        )
    finite = torch.isfinite(found).all(1)
    empty = ~(found != 0).any(1)
    for is_bad, what in ((~finite, "a value that is not finite"), (empty, "nothing but zeros")):
        if bool(is_bad.any()):
            raise ValueError(
                f"{place}: {name}: received {what} in row {int(is_bad.nonzero()[0])}, in "
                f"{int(is_bad.sum())} rows in all; allowed are finite vectors that are not zero; "
                "change the file"
            )
    return found


def _owners(place: Place, num_images: int, num_texts: int) -> Tensor:
    found = read_integers(place, OWNERS)
    if len(found) != num_texts:
        raise ValueError(
            f"{place}: {OWNERS}: received {len(found)} numbers for {num_texts} captions; allowed "
            "is one a caption, in their order; change the file"
        )
    outside = (found < 0) | (found >= num_images)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"{place}: {OWNERS}: received {int(found[row])} for caption {row}; allowed are 0 to "
            f"{num_images - 1}, the rows of the images; change the file"
        )
    bare = (found.bincount(minlength=num_images) == 0).nonzero()[:, 0]
    if len(bare):
        raise ValueError(
            f"{place}: {OWNERS}: received no caption for {len(bare)} images, the first is image "
            f"{int(bare[0])}; allowed is at least one an image; leave these images out"
        )
    return found
