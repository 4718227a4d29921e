"""`precision: bfloat16` and `is_compiled` beside plain float32: processor time and error of the gradient of one iteration.

Run: python -m tests.benchmarks.precision_table [--quick]. One thread; sizes, networks and clock are those of `engine_table.py`.
The error is that of the images' gradient against `unroll` in float32, with the cosine of both; what compiling takes is apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tasks.core.frozen_features import FrozenFeatures
from tasks.core.precision import Precision, frozen_encoder, student_model
from tasks.core.seeding import make_generator
from tests.benchmarks.engine_table import FULL, NETWORKS, QUICK, Iteration, Size, processor_seconds

Way = Callable[[], Tensor]
FORMS: tuple[tuple[str, Precision, bool], ...] = (
    ("float32", "float32", False),
    ("bfloat16", "bfloat16", False),
    ("compiled", "float32", True),
)


def trained(network: str, engine: str, precision: Precision, *, is_compiled: bool, size: Size) -> Way:
    """One iteration with the whole network trained."""
    iteration = Iteration(network, "full", size)
    iteration.flat = student_model(iteration.flat, precision, is_compiled=is_compiled)
    return lambda: iteration.run(engine).inputs["images"]


def frozen(network: str, precision: Precision, *, is_compiled: bool, size: Size) -> Way:
    """Features of all images, and a random gradient of them pulled back to pixels."""
    iteration = Iteration(network, "heads", size)
    encoder = frozen_encoder(iteration.model.image_encoder, precision, is_compiled=is_compiled)

    def way() -> Tensor:
        features = FrozenFeatures(encoder, iteration.images, torch.arange(len(iteration.images)))
        return features.pull_back(torch.randn(features.values.shape, generator=make_generator(0, "precision_table")))

    return way


def print_rows(title: str, ways: dict[str, Way], oracle: Tensor, rounds: int) -> None:
    """Print a row for each way; the first one is what the others are compared with."""
    started = time.perf_counter()
    found = {name: way() for name, way in ways.items()}
    first_seconds = time.perf_counter() - started
    seconds = processor_seconds(ways, rounds)
    for name in ways:
        error = float((found[name] - oracle).norm() / oracle.norm())
        cosine = float(cosine_similarity(found[name].double().flatten(), oracle.double().flatten(), dim=0))
        ratio = seconds[name] / next(iter(seconds.values()))
        print(f"| {title} | {name} | {seconds[name]:.3f} s | {ratio:.2f} | {error:.1e} | {cosine:.4f} |", flush=True)
    print(f"| {title} | first call of all, with compiling | {first_seconds:.0f} s | | | |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the ratios then mean little")
    size = QUICK if parser.parse_args().quick else FULL
    torch.set_num_threads(1)
    print("| what | form | processor time | ratio | error, images | cosine |\n|---|---|---|---|---|---|")
    for network in NETWORKS:
        oracle = trained(network, "unroll", "float32", is_compiled=False, size=size)()
        for engine, forms in (("double_backward", FORMS[:2]), ("central_difference", FORMS)):
            ways = {name: trained(network, engine, precision, is_compiled=compiles, size=size) for name, precision, compiles in forms}
            print_rows(f"{network}, {engine}", ways, oracle, size.rounds)
        ways = {name: frozen(network, precision, is_compiled=compiles, size=size) for name, precision, compiles in FORMS}
        print_rows(f"{network}, frozen", ways, ways["float32"](), size.rounds)


if __name__ == "__main__":
    main()
