"""Computes Recall@K in both directions with ragged captions and exact ties (METHOD 8).

A rank is the number of strictly greater scores. It is found by counting, and nothing is sorted. A
matrix product rounds differently for every block size and machine. So comparisons have three
stages. A float32 product decides all pairs that are further apart than its proven error. A float64
product decides the few others. `pair_scores` decides what is left, which are ties as a rule. So
equal embeddings tie exactly, and the result does not depend on chunk size, threads or device.
`tasks/search.py` finds the same ranks with FAISS.

Shape suffixes: N images, T captions, D dimensions of the shared space. Q queries and K keys are N
and T, or T and N. P pairs of a query and a key are compared one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

DIRECTIONS = ("i2t", "t2i")
EXACT_ELEMENTS = 2**19  # float64 elements of one step of pair_scores: 4 MB, stays in the cache
MANY_PAIRS = 2**16  # with more pairs in a block it pays to look for equal embeddings first


@dataclass(frozen=True)
class Question:
    """One direction of retrieval: Q queries among K keys. A key is positive when it belongs to the
    image of the query.

    Attributes:
        best_Q: float64, `pair_scores` of the best positive of each query.
    """

    queries_QD: Tensor
    keys_KD: Tensor
    image_Q: Tensor  # int64
    image_K: Tensor  # int64
    best_Q: Tensor

    def band(
        self, rows: Tensor | slice, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Return (low, high) for the queries in `rows`. A key with a product in `dtype` above
        `high` beats the best positive for certain, and one below `low` loses for certain.
        """
        margin, best = self.margins[dtype], self.best_Q[rows]
        return (best - margin).to(dtype), (best + margin).to(dtype)

    @cached_property
    def margins(self) -> dict[torch.dtype, float]:
        """The `score_margin` of the float32 and of the float64 product."""
        kinds = (torch.float32, torch.float64)
        return {dtype: score_margin(self.queries_QD, self.keys_KD, dtype) for dtype in kinds}

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The different queries (Q', D), the place of each query among them (Q,), and the same for
        the keys.
        """
        queries = self.queries_QD.unique(dim=0, return_inverse=True)
        return *queries, *self.keys_KD.unique(dim=0, return_inverse=True)

    def exact_scores(self, query_P: Tensor, key_P: Tensor) -> Tensor:
        """Return `pair_scores` (P,) of pairs of a query and a key."""
        if len(query_P) <= MANY_PAIRS:
            return pair_scores(self.queries_QD, self.keys_KD, query_P, key_P)
        # Collapsed embeddings make many equal pairs. Each different pair has a number, and is
        # computed once.
        queries, query_copy, keys, key_copy = self.distinct
        number_P = query_copy[query_P] * len(keys) + key_copy[key_P]
        pairs, copy_P = number_P.unique(return_inverse=True)
        return pair_scores(queries, keys, pairs // len(keys), pairs % len(keys))[copy_P]


@dataclass(frozen=True)
class Ranks:
    """Counts of keys around the best positive of each query. They are exact where `greater_Q` is
    below the largest K that was asked for.

    Attributes:
        greater_Q: int64, keys with a strictly greater score.
        tied_Q: int64, keys with the same score, positives included.
        tied_positives_Q: int64, positives among them, at least 1.
    """

    greater_Q: Tensor
    tied_Q: Tensor
    tied_positives_Q: Tensor


@dataclass(frozen=True)
class TieReport:
    """Recall in percent under three orders of tied keys.

    Attributes:
        expected: mean over random orders.
        optimistic: positives first.
        pessimistic: positives last.
    """

    expected: dict[str, float]
    optimistic: dict[str, float]
    pessimistic: dict[str, float]


def recall(
    img_ND: Tensor,
    txt_TD: Tensor,
    caption_image_idx: Tensor,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    chunk_rows: int = 1024,
) -> dict[str, float]:
    """Return `i2t_r<k>`, `t2i_r<k>` and `mean_recall` in percent; ties do not push a positive down
    (optimistic).

    In i2t an image is a query. It is a hit when any of its captions is among the top k of all
    captions. In t2i each caption is a query. Arguments, memory and errors are those of `ties`,
    which also tells how much ties matter.
    """
    return ties(img_ND, txt_TD, caption_image_idx, ks=ks, chunk_rows=chunk_rows).optimistic


def ties(
    img_ND: Tensor,
    txt_TD: Tensor,
    caption_image_idx: Tensor,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    chunk_rows: int = 1024,
) -> TieReport:
    """Return Recall@K as in `recall`, with tied keys in random (expected), best (optimistic) and
    worst order (pessimistic).

    It costs one float32 product of all pairs. A query is scored again in float64 if a key is closer
    to its best positive than the rounding of that product. With collapsed embeddings these are all
    queries.

    Args:
        img_ND: images, of any float type, normally L2-normalised.
        txt_TD: captions, same dtype and device.
        caption_image_idx: (T,) int64, the image of each caption; every image needs at least one.
        ks: the K of Recall@K, each at least 1.
        chunk_rows: images and captions per block. Memory is 2 * chunk_rows^2 floats, and the result
            does not depend on it.

    Raises:
        ValueError: shapes disagree, an embedding is not finite or too large, an image has no
            caption, or a K is below 1.
    """
    questions = ask(img_ND, txt_TD, caption_image_idx, ks)
    return tie_report(count_ranks(questions, limit=max(ks), chunk_rows=chunk_rows), ks)


@torch.no_grad()
def ask(
    img_ND: Tensor, txt_TD: Tensor, caption_image_idx: Tensor, ks: tuple[int, ...]
) -> tuple[Question, Question]:
    """Check the arguments of `ties` and return the i2t and the t2i question."""
    _check(img_ND, txt_TD, caption_image_idx, ks)
    image_T = caption_image_idx.to(img_ND.device)
    image_N = torch.arange(len(img_ND), device=image_T.device)
    own_T = pair_scores(img_ND, txt_TD, image_T, torch.arange(len(image_T), device=image_T.device))
    # An image is judged by its best caption, a caption by its one image
    best_N = torch.full_like(image_N, -torch.inf, dtype=torch.float64)
    best_N.scatter_reduce_(0, image_T, own_T, "amax")
    return (
        Question(img_ND, txt_TD, image_N, image_T, best_N),
        Question(txt_TD, img_ND, image_T, image_N, own_T),
    )


@torch.no_grad()
def count_ranks(
    questions: tuple[Question, Question], *, limit: int, chunk_rows: int
) -> tuple[Ranks, Ranks]:
    """Return the ranks of both questions of `ask`, exact below `limit`. One product of all pairs
    serves both: rows of a block are images, columns are captions.
    """
    i2t, t2i = questions
    above = [torch.zeros_like(i2t.image_Q), torch.zeros_like(t2i.image_Q)]
    not_below = [torch.zeros_like(i2t.image_Q), torch.zeros_like(t2i.image_Q)]
    for rows, columns, scores in score_blocks(i2t.queries_QD, i2t.keys_KD, chunk_rows):
        # Comparisons are written into a float buffer, because adding up floats is vectorised. To
        # count booleans is ten times slower.
        mask = torch.empty_like(scores)
        for side, (question, part, dim) in enumerate(((i2t, rows, 1), (t2i, columns, 0))):
            low, high = question.band(part)
            above[side][part] += torch.gt(scores, high.unsqueeze(dim), out=mask).sum(dim).long()
            not_below[side][part] += torch.ge(scores, low.unsqueeze(dim), out=mask).sum(dim).long()
    ranks = []
    for question, sure, near in zip(questions, above, not_below, strict=True):
        # The best positive itself lies within the margin. If nothing else does, the rank is known.
        # A query with `limit` greater keys is a miss for every K, so its rank need not be exact.
        is_open = (sure < limit) & (near - sure > 1)
        ranks.append(finish_ranks(question, sure, is_open, chunk_rows))
    return ranks[0], ranks[1]


@torch.no_grad()
def finish_ranks(question: Question, above_Q: Tensor, is_open_Q: Tensor, chunk_rows: int) -> Ranks:
    """Return the `Ranks` of a question. Queries with `is_open_Q` (bool) are counted anew, exactly.
    The others keep `above_Q` as the number of strictly greater keys.
    """
    # A closed query has one tied key, its best positive. An open one starts to count at 0.
    counts = [above_Q.clone(), torch.ones_like(above_Q), torch.ones_like(above_Q)]
    open_idx = is_open_Q.nonzero()[:, 0]
    for count in counts:
        count[open_idx] = 0
    ranks = Ranks(*counts)
    queries = question.queries_QD[open_idx]
    for rows, columns, scores in score_blocks(queries, question.keys_KD, chunk_rows, torch.float64):
        query = open_idx[rows]
        low, high = question.band(query, torch.float64)
        is_above = scores > high[:, None]
        ranks.greater_Q[query] += is_above.sum(1)
        # float64 cannot tell these keys from the best positive either: `pair_scores` decides
        row, column = ((scores >= low[:, None]) & ~is_above).nonzero(as_tuple=True)
        add_near(question, ranks, query[row], column + columns.start)
    return ranks


def add_near(question: Question, ranks: Ranks, query_P: Tensor, key_P: Tensor) -> None:
    """Compare pairs of a query and a key with the best positive by `pair_scores`, and add them to
    `ranks` in place.
    """
    # `best_Q` comes from `pair_scores` too, so equal embeddings compare as equal
    score_P, best_P = question.exact_scores(query_P, key_P), question.best_Q[query_P]
    is_tied_P = score_P == best_P
    is_positive_P = question.image_Q[query_P] == question.image_K[key_P]
    ranks.greater_Q.index_add_(0, query_P, (score_P > best_P).long())
    ranks.tied_Q.index_add_(0, query_P, is_tied_P.long())
    ranks.tied_positives_Q.index_add_(0, query_P, (is_tied_P & is_positive_P).long())


def tie_report(ranks: tuple[Ranks, Ranks], ks: tuple[int, ...]) -> TieReport:
    """Return Recall@K in percent from the (i2t, t2i) ranks."""
    reports = []
    for hits in (_expected, _optimistic, _pessimistic):
        found = {}
        for direction, rank in zip(DIRECTIONS, ranks, strict=True):
            for k in ks:
                found[f"{direction}_r{k}"] = 100.0 * float(hits(rank, k).sum()) / len(rank.tied_Q)
        found["mean_recall"] = sum(found.values()) / len(found)
        reports.append(found)
    return TieReport(*reports)


def _optimistic(rank: Ranks, k: int) -> Tensor:
    return (rank.greater_Q < k).double()


def _pessimistic(rank: Ranks, k: int) -> Tensor:
    # Every tied key that is no positive stands before the first positive
    return (rank.greater_Q + rank.tied_Q - rank.tied_positives_Q < k).double()


def _expected(rank: Ranks, k: int) -> Tensor:
    """Return the probability of a hit when tied keys stand in random order.

    Let g keys be greater, and m keys be tied, of which p are positives. Then s = K - g places are
    left for tied keys. None of them has a positive with probability C(m-p, s) / C(m, s) =
    prod_{i<s} (m-p-i) / (m-i).
    """
    places_Q = k - rank.greater_Q
    miss_Q = torch.ones_like(rank.tied_Q, dtype=torch.float64)
    for drawn in range(k):
        others_Q = (rank.tied_Q - rank.tied_positives_Q - drawn).clamp_min(0)
        # Once every tied key is drawn, a hit is certain and the product is 0 already. The floor of
        # 1 avoids 0 / 0.
        left_Q = (rank.tied_Q - drawn).clamp_min(1)
        miss_Q = torch.where(drawn < places_Q, miss_Q * others_Q / left_Q, miss_Q)
    return 1 - miss_Q


@torch.no_grad()
def pair_scores(queries_QD: Tensor, keys_KD: Tensor, query_P: Tensor, key_P: Tensor) -> Tensor:
    """Return the inner products (P,) float64 of the queries `query_P` and the keys `key_P`.

    The D products of a pair are added elementwise, half of them to the other half, until one is
    left. So the order of additions is fixed: a pair of vectors gives the same bits in any block and
    on any device. No matrix product promises this.
    """
    scores = [torch.empty(0, dtype=torch.float64, device=queries_QD.device)]
    step = max(1, EXACT_ELEMENTS // queries_QD.shape[1])
    for query, key in zip(query_P.split(step), key_P.split(step), strict=True):
        terms = queries_QD[query].double() * keys_KD[key].double()
        while (width := terms.shape[1]) > 1:
            half = width // 2
            # An odd last term goes to the first one
            if width % 2:
                terms[:, 0] += terms[:, -1]
            terms = terms[:, :half].add_(terms[:, half : 2 * half])
        scores.append(terms[:, 0])
    return torch.cat(scores)


def score_margin(queries_QD: Tensor, keys_KD: Tensor, dtype: torch.dtype = torch.float32) -> float:
    """Return a bound on |inner product in `dtype`, in any order of summation, - pair_scores| over
    all pairs.

    The bound is gamma_D |x| |y| with gamma_D = D u / (1 - D u), where u = 2^-24 in float32. Source:
    Higham, Accuracy and Stability of Numerical Algorithms, 3.1. To D u are added 32 u for the
    rounding of pair_scores, of inputs and of bounds. D times the smallest normal number is added
    for underflow. Where PyTorch may round float32 factors to TF32 or bfloat16, the bound grows by
    2^-7 |x| |y|.

    Raises:
        ValueError: norms so large that a float32 score could overflow.
    """
    width, precision = queries_QD.shape[1], torch.finfo(dtype)
    largest = torch.finfo(torch.float32).max / (width + 1)
    size = _longest(queries_QD) * _longest(keys_KD)
    if not size < largest:
        raise ValueError(
            f"embeddings are too large for float32 scores: the largest |x| |y| is {size:.3g}, "
            f"allowed is {largest:.3g}; L2-normalise them"
        )
    backend = torch.backends.cuda if queries_QD.device.type == "cuda" else torch.backends.mkldnn
    is_rounded = dtype == torch.float32 and backend.matmul.fp32_precision not in ("none", "ieee")
    # 1.01 stands for 1 / (1 - D u), and covers it up to D = 160,000 in float32
    relative = 1.01 * (width + 32) * precision.eps / 2 + is_rounded * 2.0**-7
    return relative * size + width * precision.tiny


def _longest(rows: Tensor) -> float:
    kind = torch.promote_types(rows.dtype, torch.float32)
    return float(torch.linalg.vector_norm(rows, dim=1, dtype=kind).max())


def score_blocks(
    queries_QD: Tensor, keys_KD: Tensor, chunk_rows: int, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, scores in `dtype`) of blocks of chunk_rows queries and chunk_rows
    keys.
    """
    # The margin holds for products in `dtype`, which a caller's autocast would round
    with torch.autocast(queries_QD.device.type, enabled=False):
        for first in range(0, len(queries_QD), chunk_rows):
            rows = slice(first, min(first + chunk_rows, len(queries_QD)))
            block = queries_QD[rows].to(dtype)
            for left in range(0, len(keys_KD), chunk_rows):
                columns = slice(left, min(left + chunk_rows, len(keys_KD)))
                yield rows, columns, block @ keys_KD[columns].to(dtype).T


def _check(img_ND: Tensor, txt_TD: Tensor, image_T: Tensor, ks: tuple[int, ...]) -> None:
    if (
        img_ND.ndim != 2
        or txt_TD.ndim != 2
        or img_ND.shape[1] != txt_TD.shape[1]
        or len(image_T) != len(txt_TD)
    ):
        shapes = [tuple(value.shape) for value in (img_ND, txt_TD, image_T)]
        raise ValueError(
            "recall needs image_embeds (N, d), text_embeds (T, d), caption_image_idx (T,); "
            f"received {shapes}"
        )
    if not ks or min(ks) < 1:
        raise ValueError(
            f"ks must be integers of at least 1, one for each Recall@K; received {ks}; change "
            "the ks of the caller"
        )
    check_embeddings(image_embeds=img_ND, text_embeds=txt_TD)
    if not torch.equal(image_T.unique().cpu(), torch.arange(len(img_ND), dtype=image_T.dtype)):
        raise ValueError(
            f"caption_image_idx must name each of the {len(img_ND)} images at least once "
            "and no other"
        )


def check_embeddings(**embeddings: Tensor) -> None:
    """Refuse embeddings with non-finite values, or without any, by name (ValueError)."""
    for name, value in embeddings.items():
        # Two numbers tell, since a NaN anywhere makes both extremes NaN
        if not value.numel() or not torch.stack(value.aminmax()).isfinite().all():
            raise ValueError(
                f"{name} has non-finite values or none at all (shape {tuple(value.shape)}); "
                "check the encoder and the training that produced it"
            )
