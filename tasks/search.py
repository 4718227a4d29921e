"""Finds nearest neighbours by FAISS: Recall@K from top-K lists, and nearest sentences (METHOD 8).

Nothing else imports faiss. It stands above `core`, which runs without it on a GPU machine. FAISS
searches in float32. `retrieval.pair_scores` decides what float32 cannot, so `recall_by_search`
equals `retrieval.recall` to the last digit.

Shape suffixes as in `core/evaluation/retrieval.py`; L entries of a list of candidates.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.core.evaluation.retrieval import (
    Question,
    Ranks,
    add_near,
    ask,
    check_embeddings,
    finish_ranks,
    pair_scores,
    score_blocks,
    score_margin,
    tie_report,
)

# Entries fetched beyond the K asked for, room for ties; FAISS takes no longer for 32 entries than
# for 10
SLACK = 16
GPU_MAX_ENTRIES = 2048  # longest list of a FAISS search on a GPU
FALLBACK_ROWS = 1024  # rows of a block where a list was too short, see core.retrieval.ties


def recall_by_search(
    img_ND: Tensor,
    txt_TD: Tensor,
    caption_image_idx: Tensor,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    chunk_rows: int = 4096,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Return exactly what `core.retrieval.recall` returns, from one exact inner-product search in
    each direction.

    A positive counts as a hit when fewer than K keys score strictly higher, also where keys tied
    with it fill the list.

    Args:
        img_ND: images, of any float type, normally L2-normalised.
        txt_TD: captions, same dtype and device.
        caption_image_idx: (T,) int64, the image of each caption; every image needs at least one.
        ks: the K of Recall@K, each at least 1.
        chunk_rows: queries per search; memory is chunk_rows * (max(ks) + SLACK) entries.
        device: where FAISS searches, by default where the embeddings are. A GPU needs faiss-gpu.

    Raises:
        ValueError: as `core.retrieval.ties`.
        ModuleNotFoundError: faiss is not installed.
    """
    i2t, t2i = ask(img_ND, txt_TD, caption_image_idx, ks)
    where = torch.device(device or img_ND.device)
    of_images = _search_ranks(i2t, max(ks), chunk_rows, where)
    of_captions = _search_ranks(t2i, max(ks), chunk_rows, where)
    return tie_report((of_images, of_captions), ks).optimistic


@torch.no_grad()
def nearest(
    queries: Tensor,
    keys: Tensor,
    *,
    k: int = 1,
    chunk_rows: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Return the cosine-nearest `k` keys of each query, best first; equal keys are listed by index.

    Args:
        queries: (Q, D) of any float type, e.g. distilled caption embeddings.
        keys: (N, D), e.g. the embeddings of all training captions. A vector of zeros has similarity
            0 to everything.
        k: entries per query, 1 .. N.
        chunk_rows: queries per search.

    Returns:
        (similarities, indices): (Q, k) float32 in -1 .. 1 and (Q, k) int64, on the device of
            `keys`.

    Raises:
        ValueError: shapes disagree, non-finite values, or k out of range.
        ModuleNotFoundError: faiss is not installed.
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(
            f"nearest needs queries (Q, D) and keys (N, D); received {tuple(queries.shape)} and "
            f"{tuple(keys.shape)}"
        )
    if not 1 <= k <= len(keys):
        raise ValueError(
            f"k must lie in 1 .. {len(keys)}, the number of keys; received {k}; change the k of "
            "the caller"
        )
    check_embeddings(queries=queries, keys=keys)
    unit_queries, unit_keys = _unit_rows(queries).to(keys.device), _unit_rows(keys)
    index = _Index.of(unit_keys, min(k + SLACK, len(keys)), keys.device)
    scores, found = index.search(unit_queries, chunk_rows)
    similarities, indices = _best(unit_queries, unit_keys, found, k)
    # A list is complete when its last entry is certainly worse than the k-th best; n equal keys may
    # need a longer one.
    # Twice the margin: FAISS rounds the score of each of the two entries
    floor = scores[:, k - 1] - 2 * score_margin(unit_queries, unit_keys)
    if index.entries < len(keys):
        for row, candidates in _above(unit_queries, unit_keys, floor, scores[:, -1] >= floor):
            best, best_idx = _best(unit_queries[row : row + 1], unit_keys, candidates[None], k)
            similarities[row], indices[row] = best[0], best_idx[0]
    return similarities.float().clamp_(-1, 1), indices


@dataclass(frozen=True)
class _Index:
    """An exact inner-product index that returns lists of `entries` keys."""

    faiss_index: Any
    entries: int
    device: torch.device  # of the keys, where results go

    @classmethod
    def of(cls, keys: Tensor, entries: int, device: torch.device) -> _Index:
        faiss = _faiss()
        index = faiss.IndexFlatIP(keys.shape[1])
        if device.type == "cuda" and entries <= GPU_MAX_ENTRIES:
            if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
                index = faiss.index_cpu_to_gpu(
                    faiss.StandardGpuResources(), device.index or 0, index
                )
            else:
                warnings.warn(
                    "faiss has no GPU here and searches on the CPU; install the extra 'gpu' "
                    "(faiss-gpu) instead of 'cpu'",
                    stacklevel=3,
                )
        index.add(_as_numpy(keys))
        return cls(index, entries, keys.device)

    def search(self, queries: Tensor, chunk_rows: int) -> tuple[Tensor, Tensor]:
        """Return (scores float32, key indices int64), both (Q, entries), best first."""
        all_scores, all_found = [], []
        for chunk in queries.split(chunk_rows):
            scores, found = self.faiss_index.search(_as_numpy(chunk), self.entries)
            all_scores.append(torch.from_numpy(scores))
            all_found.append(torch.from_numpy(found))
        return torch.cat(all_scores).to(self.device), torch.cat(all_found).to(self.device)


@torch.no_grad()
def _search_ranks(question: Question, limit: int, chunk_rows: int, device: torch.device) -> Ranks:
    index = _Index.of(question.keys_KD, min(limit + SLACK, len(question.keys_KD)), device)
    scores_QL, key_QL = index.search(question.queries_QD, chunk_rows)
    low_Q, high_Q = question.band(slice(None))
    is_above_QL = scores_QL > high_Q[:, None]
    is_near_QL = (scores_QL >= low_Q[:, None]) & ~is_above_QL
    above_Q = is_above_QL.sum(1)
    # A list that ends inside the margin may hide keys as good as the positive: those queries are
    # counted.
    is_cut_Q = (scores_QL[:, -1] >= low_Q) & (index.entries < len(question.keys_KD))
    is_open_Q = (above_Q < limit) & is_cut_Q
    ranks = finish_ranks(question, above_Q, is_open_Q, FALLBACK_ROWS)
    # More keys than the positive are near it: float32 cannot tell which is better, exact scores can
    is_tied_Q = (above_Q < limit) & (is_near_QL.sum(1) > 1) & ~is_open_Q
    # The positive is counted as tied already, and `add_near` counts it once more with the others
    ranks.tied_Q[is_tied_Q] = 0
    ranks.tied_positives_Q[is_tied_Q] = 0
    query_P, entry_P = (is_near_QL & is_tied_Q[:, None]).nonzero(as_tuple=True)
    add_near(question, ranks, query_P, key_QL[query_P, entry_P])
    return ranks


def _above(
    queries: Tensor, keys: Tensor, floor: Tensor, is_wanted: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Yield (query, indices of all its keys that score at least `floor`) of the wanted queries."""
    wanted = is_wanted.nonzero()[:, 0]
    pairs = [torch.empty(0, 2, dtype=torch.long, device=keys.device)]
    for rows, columns, scores in score_blocks(queries[wanted], keys, FALLBACK_ROWS):
        corner = torch.tensor([rows.start, columns.start], device=keys.device)
        pairs.append((scores >= floor[wanted[rows], None]).nonzero() + corner)
    query, key = torch.cat(pairs).T
    for position, row in enumerate(wanted.tolist()):
        yield row, key[query == position]


def _best(queries: Tensor, keys: Tensor, found: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sort candidate lists `found` (Q, L) by exact score and then by index, and return the first k
    of both.
    """
    found = found.sort(1).values
    rows = torch.arange(len(found), device=found.device).repeat_interleave(found.shape[1])
    scores = pair_scores(queries, keys, rows, found.reshape(-1)).view_as(found)
    order = scores.sort(dim=1, descending=True, stable=True)
    return order.values[:, :k], found.gather(1, order.indices[:, :k])


def _unit_rows(vectors: Tensor) -> Tensor:
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    check_embeddings(norms_of_the_vectors=norms)
    return vectors / norms.clamp_min(torch.finfo(vectors.dtype).tiny)


def _as_numpy(vectors: Tensor) -> np.ndarray:
    """Return vectors as FAISS takes them."""
    return vectors.float().cpu().contiguous().numpy()


def _faiss() -> ModuleType:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "faiss is not installed, which recall_by_search and nearest need; install one of the "
            "extras: "
            "pip install 'vl-distillery[cpu]' (faiss-cpu) or 'vl-distillery[gpu]' (faiss-gpu, "
            "CUDA 12)"
        ) from error
    return faiss
