"""Recall@K in both directions with ragged captions and exact ties (METHOD 8).

A rank is the number of strictly greater scores, found by counting: no ranking is ever sorted.
Matrix products round differently in every block and on every machine. So a float32 product only
decides pairs that are further apart than its proven error. A float64 product decides the few
others, and `pair_scores` what is then left: ties. Equal embeddings therefore tie exactly, and the
result does not depend on chunk size, threads or device. `tasks/search.py` finds the same ranks with
FAISS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

DIRECTIONS = ("i2t", "t2i")
EXACT_ELEMENTS = 2**19  # float64 elements of one step of pair_scores: 4 MB, stays in the cache
MANY_PAIRS = 2**16  # ties of a block from which on it pays to look for equal embeddings


@dataclass(frozen=True)
class Question:
    """One direction of retrieval: Q queries among N keys; a key is positive when both belong to the
    same image.
    """

    queries: Tensor  # (Q, d)
    keys: Tensor  # (N, d)
    query_image: Tensor  # (Q,) int64
    key_image: Tensor  # (N,) int64
    best: Tensor  # (Q,) float64, `pair_scores` of the best positive

    def band(
        self, rows: Tensor | slice, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Return (low, high): a product in `dtype` above `high` beats the best positive, one below
        `low` loses.
        """
        margin = self.margins[dtype]
        return (self.best[rows] - margin).to(dtype), (self.best[rows] + margin).to(dtype)

    @cached_property
    def margins(self) -> dict[torch.dtype, float]:
        """The `score_margin` of both products."""
        return {
            dtype: score_margin(self.queries, self.keys, dtype)
            for dtype in (torch.float32, torch.float64)
        }

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The different queries (Q', d) and where each query is among them (Q,), and the same of
        the keys.
        """
        return *self.queries.unique(dim=0, return_inverse=True), *self.keys.unique(
            dim=0, return_inverse=True
        )

    def exact_scores(self, query_idx: Tensor, key_idx: Tensor) -> Tensor:
        """Return `pair_scores` (P,) of pairs; copies of a pair are computed once where there are
        many pairs.
        """
        if len(query_idx) <= MANY_PAIRS:
            return pair_scores(self.queries, self.keys, query_idx, key_idx)
        queries, query_copy, keys, key_copy = self.distinct
        pairs, copy = (query_copy[query_idx] * len(keys) + key_copy[key_idx]).unique(
            return_inverse=True
        )
        return pair_scores(queries, keys, pairs // len(keys), pairs % len(keys))[copy]


@dataclass(frozen=True)
class Ranks:
    """What stands beside the best positive of each query, exact where `greater` is below the
    largest K asked for.
    """

    greater: Tensor  # (Q,) int64, keys with a strictly greater score
    tied: Tensor  # (Q,) int64, keys with the same score, positives included
    tied_positives: Tensor  # (Q,) int64, positives among them, at least 1


@dataclass(frozen=True)
class TieReport:
    """Recall in percent, three times: tied keys in random order on average, positives first,
    positives last.
    """

    expected: dict[str, float]
    optimistic: dict[str, float]
    pessimistic: dict[str, float]


def recall(
    image_embeds: Tensor,
    text_embeds: Tensor,
    caption_image_idx: Tensor,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    chunk_rows: int = 1024,
) -> dict[str, float]:
    """Return `i2t_r<k>`, `t2i_r<k>` and `mean_recall` in percent; ties do not push a positive down
    (optimistic).

    i2t is a hit when any of the image's captions is among the top k of all captions; in t2i each
    caption is a query. Arguments, memory and errors as for `ties`, which says how much ties matter.
    """
    return ties(
        image_embeds, text_embeds, caption_image_idx, ks=ks, chunk_rows=chunk_rows
    ).optimistic


def ties(
    image_embeds: Tensor,
    text_embeds: Tensor,
    caption_image_idx: Tensor,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    chunk_rows: int = 1024,
) -> TieReport:
    """Return the recall of `recall` with tied keys in random (expected), best (optimistic) and
    worst order (pessimistic).

    Cost: one float32 product of all pairs; queries with a pair closer to their positive than its
    rounding are scored again in float64, which is every query where the embeddings have collapsed.

    Args:
        image_embeds: (N, d) of any float type, normally L2-normalised.
        text_embeds: (T, d), same dtype and device.
        caption_image_idx: (T,) int64, the image of each caption; every image needs at least one.
        ks: the K of Recall@K, each at least 1.
        chunk_rows: images and captions per block; memory is 2 * chunk_rows^2 floats, the result
            does not depend on it.

    Raises:
        ValueError: shapes disagree, an embedding is not finite or too large, an image has no
            caption, or a K is below 1.
    """
    questions = ask(image_embeds, text_embeds, caption_image_idx, ks)
    return tie_report(count_ranks(questions, limit=max(ks), chunk_rows=chunk_rows), ks)


@torch.no_grad()
def ask(
    image_embeds: Tensor, text_embeds: Tensor, caption_image_idx: Tensor, ks: tuple[int, ...]
) -> tuple[Question, Question]:
    """Check the arguments of `ties` and return the i2t and the t2i question."""
    _check(image_embeds, text_embeds, caption_image_idx, ks)
    owner, images = (
        caption_image_idx.to(image_embeds.device),
        torch.arange(len(image_embeds), device=image_embeds.device),
    )
    positive = pair_scores(
        image_embeds, text_embeds, owner, torch.arange(len(owner), device=owner.device)
    )
    best = torch.full(
        (len(images),), -torch.inf, dtype=torch.float64, device=owner.device
    ).scatter_reduce_(0, owner, positive, "amax")
    return (
        Question(image_embeds, text_embeds, images, owner, best),
        Question(text_embeds, image_embeds, owner, images, positive),
    )


@torch.no_grad()
def count_ranks(
    questions: tuple[Question, Question], *, limit: int, chunk_rows: int
) -> tuple[Ranks, Ranks]:
    """Return the ranks of both questions of `ask`, exact below `limit`, from one product of all
    pairs.
    """
    above = [torch.zeros(len(q.queries), dtype=torch.long, device=q.best.device) for q in questions]
    not_below = [torch.zeros_like(count) for count in above]
    i2t, t2i = questions
    for rows, columns, scores in score_blocks(i2t.queries, i2t.keys, chunk_rows):
        # Comparing into a float buffer and adding it up is vectorised; counting booleans is ten
        # times slower.
        mask = torch.empty_like(scores)
        for side, (question, part, dim) in enumerate(((i2t, rows, 1), (t2i, columns, 0))):
            low, high = (bound.unsqueeze(dim) for bound in question.band(part))
            above[side][part] += torch.gt(scores, high, out=mask).sum(dim).long()
            not_below[side][part] += torch.ge(scores, low, out=mask).sum(dim).long()
    i2t_ranks, t2i_ranks = (
        # The best positive itself always lies within the margin: if nothing else does, the rank is
        # certain.
        finish_ranks(question, sure, (sure < limit) & (near - sure > 1), chunk_rows)
        for question, sure, near in zip(questions, above, not_below, strict=True)
    )
    return i2t_ranks, t2i_ranks


@torch.no_grad()
def finish_ranks(question: Question, above: Tensor, is_open: Tensor, chunk_rows: int) -> Ranks:
    """Return `Ranks` with `above` (Q,) strictly greater keys, and with exact counts where `is_open`
    (Q,) bool.
    """
    ranks = Ranks(above.clone(), torch.ones_like(above), torch.ones_like(above))
    open_idx = is_open.nonzero()[:, 0]
    ranks.greater[open_idx] = 0
    ranks.tied[open_idx] = 0
    ranks.tied_positives[open_idx] = 0
    for rows, columns, scores in score_blocks(
        question.queries[open_idx], question.keys, chunk_rows, torch.float64
    ):
        low, high = (bound[:, None] for bound in question.band(open_idx[rows], torch.float64))
        ranks.greater[open_idx[rows]] += (scores > high).sum(1)
        near = ((scores >= low) & (scores <= high)).nonzero()
        add_near(question, ranks, open_idx[rows][near[:, 0]], near[:, 1] + columns.start)
    return ranks


def add_near(question: Question, ranks: Ranks, query_idx: Tensor, key_idx: Tensor) -> None:
    """Compare pairs (P,) by `pair_scores` with the best positive and add them to `ranks` in
    place.
    """
    score, best = question.exact_scores(query_idx, key_idx), question.best[query_idx]
    is_positive = question.query_image[query_idx] == question.key_image[key_idx]
    ranks.greater.index_add_(0, query_idx, (score > best).long())
    ranks.tied.index_add_(0, query_idx, (score == best).long())
    ranks.tied_positives.index_add_(0, query_idx, ((score == best) & is_positive).long())


def tie_report(ranks: tuple[Ranks, Ranks], ks: tuple[int, ...]) -> TieReport:
    """Return Recall@K in percent from the (i2t, t2i) ranks.

    With g greater keys and p positives among m tied ones, s = K - g places are left. A random order
    misses with probability C(m-p, s) / C(m, s) = prod_{i<s} (m-p-i) / (m-i).
    """
    hits: dict[str, list[Tensor]] = {
        f"{direction}_r{k}": [
            _chance(rank, k),
            (rank.greater < k).double(),
            (rank.greater + rank.tied - rank.tied_positives < k).double(),
        ]
        for direction, rank in zip(DIRECTIONS, ranks, strict=True)
        for k in ks
    }
    reports = [
        {name: 100.0 * float(hit[order].sum()) / len(hit[order]) for name, hit in hits.items()}
        for order in range(3)
    ]
    return TieReport(
        *({**scores, "mean_recall": sum(scores.values()) / len(scores)} for scores in reports)
    )


def _chance(ranks: Ranks, k: int) -> Tensor:
    places, miss = (
        k - ranks.greater,
        torch.ones(len(ranks.tied), dtype=torch.float64, device=ranks.tied.device),
    )
    for drawn in range(k):
        others = (ranks.tied - ranks.tied_positives - drawn).clamp_min(0)
        miss = torch.where(drawn < places, miss * others / (ranks.tied - drawn).clamp_min(1), miss)
    return 1 - miss


@torch.no_grad()
def pair_scores(queries: Tensor, keys: Tensor, query_idx: Tensor, key_idx: Tensor) -> Tensor:
    """Return the inner products (P,) float64 of queries[query_idx] and keys[key_idx], both (P, d).

    The d products are added by halving, elementwise: the same pair of vectors gives the same bits
    wherever it stands and on any device, which no matrix product promises.
    """
    scores = [torch.empty(0, dtype=torch.float64, device=queries.device)]
    step = max(1, EXACT_ELEMENTS // queries.shape[1])
    for first in range(0, len(query_idx), step):
        part = slice(first, first + step)
        terms = queries[query_idx[part]].double() * keys[key_idx[part]].double()
        while (width := terms.shape[1]) > 1:
            half = width // 2
            if width % 2:
                terms[:, 0] += terms[:, -1]
            terms = terms[:, :half].add_(terms[:, half : 2 * half])
        scores.append(terms[:, 0])
    return torch.cat(scores)


def score_margin(queries: Tensor, keys: Tensor, dtype: torch.dtype = torch.float32) -> float:
    """Return a bound on |inner product in `dtype`, in any order of summation, - pair_scores| over
    all pairs.

    The bound is gamma_d |x| |y|, gamma_d = d u / (1 - d u), u = 2^-24 in float32. Source: Higham,
    Accuracy and Stability of Numerical Algorithms, 3.1. Added are 32 u more for pair_scores and for
    rounding inputs and bounds, and d times the smallest normal number for underflow. Where PyTorch
    may round float32 factors to TF32 or bfloat16, the bound grows by 2^-7 |x| |y|.

    Raises:
        ValueError: norms so large that a float32 score could overflow.
    """
    width, precision, largest = (
        queries.shape[1],
        torch.finfo(dtype),
        torch.finfo(torch.float32).max / (queries.shape[1] + 1),
    )
    norm_types = (torch.promote_types(value.dtype, torch.float32) for value in (queries, keys))
    norms = (
        torch.linalg.vector_norm(value, dim=1, dtype=kind).max()
        for value, kind in zip((queries, keys), norm_types, strict=True)
    )
    size = math.prod(float(norm) for norm in norms)
    if not size < largest:
        raise ValueError(
            f"embeddings are too large for float32 scores: the largest |x| |y| is {size:.3g}, "
            f"allowed is {largest:.3g}; L2-normalise them"
        )
    backend = torch.backends.cuda if queries.device.type == "cuda" else torch.backends.mkldnn
    is_rounded = dtype == torch.float32 and backend.matmul.fp32_precision not in ("none", "ieee")
    return (
        1.01 * (width + 32) * precision.eps / 2 + is_rounded * 2.0**-7
    ) * size + width * precision.tiny


def score_blocks(
    queries: Tensor, keys: Tensor, chunk_rows: int, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, scores in `dtype`) of blocks of chunk_rows queries and chunk_rows
    keys.
    """
    with torch.autocast(queries.device.type, enabled=False):
        for first in range(0, len(queries), chunk_rows):
            rows = slice(first, min(first + chunk_rows, len(queries)))
            block = queries[rows].to(dtype)
            for start in range(0, len(keys), chunk_rows):
                columns = slice(start, min(start + chunk_rows, len(keys)))
                yield rows, columns, block @ keys[columns].to(dtype).T


def _check(image_embeds: Tensor, text_embeds: Tensor, owner: Tensor, ks: tuple[int, ...]) -> None:
    if (
        image_embeds.ndim != 2
        or text_embeds.ndim != 2
        or image_embeds.shape[1] != text_embeds.shape[1]
        or len(owner) != len(text_embeds)
    ):
        shapes = [tuple(value.shape) for value in (image_embeds, text_embeds, owner)]
        raise ValueError(
            "recall needs image_embeds (N, d), text_embeds (T, d), caption_image_idx (T,); "
            f"received {shapes}"
        )
    if not ks or min(ks) < 1:
        raise ValueError(
            f"ks must be integers of at least 1, one for each Recall@K; received {ks}; change "
            "the ks of the caller"
        )
    check_embeddings(image_embeds=image_embeds, text_embeds=text_embeds)
    if not torch.equal(owner.unique().cpu(), torch.arange(len(image_embeds), dtype=owner.dtype)):
        raise ValueError(
            f"caption_image_idx must name each of the {len(image_embeds)} images at least once "
            "and no other"
        )


def check_embeddings(**embeddings: Tensor) -> None:
    """Refuse embeddings with non-finite values, or without any, by name (ValueError)."""
    for name, value in embeddings.items():
        # NaN passes through aminmax
        if not value.numel() or not all(
            bool(torch.isfinite(extreme)) for extreme in value.aminmax()
        ):
            raise ValueError(
                f"{name} has non-finite values or none at all (shape {tuple(value.shape)}); "
                "check the encoder and the training that produced it"
            )
