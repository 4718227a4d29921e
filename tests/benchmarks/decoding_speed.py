"""Nearest-sentence decoding of 500 vectors among 145,000 captions: one scikit-learn call a vector
against FAISS.

Run: python -m tests.benchmarks.decoding_speed [--rounds R] [--calls C]. `nearest` decodes all 500
vectors; the loop of cosine_similarity calls is timed on C vectors a round (other ones each round)
and multiplied by 500 / C: its calls all cost the same. `--calls 500` measures the whole loop. The
vectors of every timed call must decode to the same sentence.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity

from tasks.core.foundations.seeding import make_generator
from tasks.search import nearest
from tests.benchmarks.timing import alternate, print_ratios

NUM_VECTORS, NUM_CAPTIONS, WIDTH = 500, 145_000, 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=20)
    arguments = parser.parse_args()
    generator = make_generator(0, "decoding_speed")
    captions = torch.randn(NUM_CAPTIONS, WIDTH, generator=generator)
    start = captions[torch.randperm(NUM_CAPTIONS, generator=generator)[:NUM_VECTORS]]
    # Drifted away from real sentences
    vectors = start + 2.0 * torch.randn(NUM_VECTORS, WIDTH, generator=generator)
    captions_array, vectors_array = captions.numpy(), vectors.numpy()

    def timed_vectors(number: int) -> np.ndarray:
        return (number * arguments.calls + np.arange(arguments.calls)) % NUM_VECTORS

    def loop(number: int) -> np.ndarray:
        return np.array(
            [
                cosine_similarity(vectors_array[i : i + 1], captions_array).argmax()
                for i in timed_vectors(number)
            ]
        )

    nearest(vectors, captions)  # the first call loads the library
    seconds, results = alternate(
        {"scikit-learn loop": loop, "FAISS (nearest)": lambda _: nearest(vectors, captions)[1]},
        arguments.rounds,
    )
    seconds["scikit-learn loop"] *= NUM_VECTORS / arguments.calls
    print(
        f"nearest of {NUM_CAPTIONS} captions for {NUM_VECTORS} vectors, d = {WIDTH}, median of "
        f"{arguments.rounds} interleaved rounds, "
        f"{torch.get_num_threads()} threads; the loop: {arguments.calls} calls timed, scaled by "
        f"{NUM_VECTORS / arguments.calls:g}"
    )
    print_ratios(seconds, "scikit-learn loop", target=50)
    pairs = zip(results["scikit-learn loop"], results["FAISS (nearest)"], strict=True)
    for number, (expected, found) in enumerate(pairs):
        if not np.array_equal(found[timed_vectors(number), 0].numpy(), expected):
            raise SystemExit(
                f"the sentences of round {number} differ: {expected.tolist()} and "
                f"{found[timed_vectors(number), 0].tolist()}"
            )
    print(f"equal sentences in all {arguments.rounds * arguments.calls} timed calls")


if __name__ == "__main__":
    main()
