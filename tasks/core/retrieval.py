"""Recall@K in both directions with ragged captions, by counting scores above the best positive (METHOD 8)."""

from __future__ import annotations

import torch
from torch import Tensor

DIRECTIONS = ("i2t", "t2i")


def recall(
    image_embeds: Tensor, text_embeds: Tensor, caption_image_idx: Tensor, *, ks: tuple[int, ...] = (1, 5, 10), chunk_rows: int = 512
) -> dict[str, float]:
    """Return `i2t_r<k>`, `t2i_r<k>` and `mean_recall` in percent.

    i2t is a hit when any of the image's captions is among the top k of all captions; in t2i each caption is a query.
    A rank is the number of strictly greater scores, so tied items do not push a positive down (optimistic).

    Args:
        image_embeds: (N, d), normally L2-normalised.
        text_embeds: (T, d), same dtype and device.
        caption_image_idx: (T,) int64, the image of each caption; every image needs at least one.
        chunk_rows: images per block; memory is chunk_rows * T scores.

    Raises:
        ValueError: shapes disagree, an embedding is not finite, or an image has no caption.
    """
    _check(image_embeds, text_embeds, caption_image_idx)
    owner = caption_image_idx.to(image_embeds.device)
    num_images, num_texts = len(image_embeds), len(text_embeds)
    positive = torch.empty(num_texts, device=owner.device, dtype=image_embeds.dtype)
    i2t_rank = torch.empty(num_images, dtype=torch.long, device=owner.device)
    # The same blocks are computed in both passes, so that a score compares equal with itself bit for bit.
    for first in range(0, num_images, chunk_rows):
        block = image_embeds[first : first + chunk_rows] @ text_embeds.T
        mine = (owner >= first) & (owner < first + len(block))
        positive[mine] = block[owner[mine] - first, mine.nonzero()[:, 0]]
        best = torch.full((len(block),), -torch.inf, dtype=block.dtype, device=block.device)
        best.scatter_reduce_(0, owner[mine] - first, positive[mine], "amax")
        i2t_rank[first : first + len(block)] = (block > best[:, None]).sum(1)
    t2i_rank = torch.zeros(num_texts, dtype=torch.long, device=owner.device)
    for first in range(0, num_images, chunk_rows):
        t2i_rank += (image_embeds[first : first + chunk_rows] @ text_embeds.T > positive).sum(0)
    scores = {
        f"{direction}_r{k}": 100.0 * int((rank < k).sum()) / len(rank)
        for direction, rank in zip(DIRECTIONS, (i2t_rank, t2i_rank), strict=True)
        for k in ks
    }
    return {**scores, "mean_recall": sum(scores.values()) / len(scores)}


def _check(image_embeds: Tensor, text_embeds: Tensor, owner: Tensor) -> None:
    if image_embeds.ndim != 2 or text_embeds.ndim != 2 or image_embeds.shape[1] != text_embeds.shape[1] or len(owner) != len(text_embeds):
        shapes = [tuple(value.shape) for value in (image_embeds, text_embeds, owner)]
        raise ValueError(f"recall needs image_embeds (N, d), text_embeds (T, d), caption_image_idx (T,); received {shapes}")
    for name, value in (("image_embeds", image_embeds), ("text_embeds", text_embeds)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} has non-finite values; check the encoder and the training that produced it")
    counts = torch.bincount(owner, minlength=len(image_embeds))
    if len(counts) != len(image_embeds) or not bool((counts > 0).all()):
        raise ValueError(f"caption_image_idx must name each of the {len(image_embeds)} images at least once and no other")
