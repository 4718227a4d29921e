"""Recall@K of 5,000 images and 25,000 captions: the published evaluation loop against counting and
FAISS.

Run: python -m tests.benchmarks.recall_speed [--rounds R]. The baseline is what the public
evaluation scripts of ALBEF and of vision-language dataset distillation do, written anew: the full
score matrix, the top 128 of each row and column, then in Python for each query an argsort of its
row and an np.where for each positive. All three must return the same numbers.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from tasks.core.evaluation.retrieval import recall
from tasks.core.foundations.seeding import make_generator
from tasks.search import recall_by_search
from tests.benchmarks.timing import alternate, print_ratios

NUM_IMAGES, NUM_CAPTIONS, WIDTH, NOISE, TOP, KS = 5_000, 25_000, 512, 9.0, 128, (1, 5, 10)


def embeddings(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit image_embeds, text_embeds and the image of each caption: random directions,
    captions near their image.
    """
    generator = make_generator(seed, "recall_speed")
    owner = torch.arange(NUM_IMAGES).repeat_interleave(NUM_CAPTIONS // NUM_IMAGES)
    image = torch.nn.functional.normalize(
        torch.randn(NUM_IMAGES, WIDTH, generator=generator), dim=1
    )
    text = image[owner] + NOISE * torch.randn(NUM_CAPTIONS, WIDTH, generator=generator) / WIDTH**0.5
    return image, torch.nn.functional.normalize(text, dim=1), owner


def published_way(image: Tensor, text: Tensor, owner: Tensor) -> dict[str, float]:
    """Return Recall@K in percent by sorting every row of the score matrix."""
    scores, found = image @ text.T, dict[str, float]()
    captions_of: list[list[int]] = [[] for _ in range(NUM_IMAGES)]
    for caption, index in enumerate(owner.tolist()):
        captions_of[index].append(caption)
    for direction, matrix, positives in (
        ("i2t", scores, captions_of),
        ("t2i", scores.T, [[index] for index in owner.tolist()]),
    ):
        kept = torch.full(matrix.shape, -100.0)
        for query, row in enumerate(matrix):
            top, key = row.topk(TOP)
            kept[query, key] = top
        ranks = np.zeros(len(kept))
        for query, row in enumerate(kept.numpy()):
            order = np.argsort(row)[::-1]
            ranks[query] = min(np.where(order == positive)[0][0] for positive in positives[query])
        found |= {f"{direction}_r{k}": 100.0 * int((ranks < k).sum()) / len(ranks) for k in KS}
    return {**found, "mean_recall": sum(found.values()) / len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    data = embeddings(seed=0)
    recall(*data), recall_by_search(*data)  # first calls load libraries
    ways = {
        "published loop": lambda _: published_way(*data),
        "counting (recall)": lambda _: recall(*data),
        "FAISS (recall_by_search)": lambda _: recall_by_search(*data),
    }
    seconds, results = alternate(ways, rounds)
    print(
        f"Recall@K of {NUM_IMAGES} x {NUM_CAPTIONS}, d = {WIDTH}, median of {rounds} interleaved "
        f"rounds, {torch.get_num_threads()} threads"
    )
    print_ratios(seconds, "published loop", target=4)
    if any(found != results["published loop"][0] for every in results.values() for found in every):
        raise SystemExit(
            f"the results differ: { {name: every[0] for name, every in results.items()} }"
        )
    print("equal results:", results["counting (recall)"][0])


if __name__ == "__main__":
    main()
