"""Embeds captions as a hashed bag of words and word pairs, projected at random. It needs no
download.

Each single word and each word pair (n-gram) of the lower-cased caption has a Gaussian vector,
seeded by its text. The embedding of a caption is the weighted sum over its distinct n-grams,
L2-normalised. By Johnson-Lindenstrauss, inner products of embeddings approximate the overlap of the
n-grams. This is feature hashing (Weinberger et al., ICML 2009) with Gaussian vectors in place of
sparse signs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from tasks.core.foundations.section import Range, Section
from tasks.core.foundations.seeding import make_generator


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Options.

    Attributes:
        dim: width of the embedding.
        bigram_weight: weight of word pairs beside single words; 0 leaves them out.
        seed: of the vectors of the n-grams.
    """

    dim: Annotated[int, Range(ge=8, le=65536)]
    bigram_weight: Annotated[float, Range(ge=0.0, le=10.0)]
    seed: Annotated[int, Range(ge=0)]


def label(config: Config) -> str:
    """Return the name that artifact folders carry."""
    return f"hashed_{config.dim}"


def weight_files(config: Config) -> list[Path]:
    """Return local files whose content decides the result: none."""
    return []


def fetched(config: Config) -> list[Path]:
    """Return the files that came by name: none."""
    return []


def examples(config: Config) -> list[str]:
    """Return two captions: any words are known."""
    return ["a red dog", "two cats on the grass"]


def embed(
    config: Config,
    captions: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return (T, dim) float32 embeddings, L2-normalised, on the CPU in any case.

    Raises:
        ValueError: a caption without a word.
    """
    vectors: dict[str, Tensor] = {}  # each n-gram is drawn once, whatever captions it is in
    rows = torch.zeros(len(captions), config.dim)
    for row, caption in enumerate(captions):
        words = re.findall(r"\w+", caption.lower())
        if not words:
            raise ValueError(
                f"caption {row} has no word: {caption!r}; every caption needs one; correct it in "
                "the dataset's caption file"
            )
        # A dictionary: a word that comes twice counts once
        weights = dict.fromkeys(words, 1.0)
        if config.bigram_weight > 0.0:
            weights.update(
                dict.fromkeys(
                    (f"{a} {b}" for a, b in itertools.pairwise(words)), config.bigram_weight
                )
            )
        for ngram, weight in weights.items():
            # The n-gram names its generator, so its vector is the same in every dataset
            if ngram not in vectors:
                vectors[ngram] = torch.randn(
                    config.dim, generator=make_generator(config.seed, "ngram", ngram)
                )
            rows[row].add_(vectors[ngram], alpha=weight)
        if progress and row % 1000 == 0:
            progress(row, len(captions))
    return torch.nn.functional.normalize(rows, dim=1)
