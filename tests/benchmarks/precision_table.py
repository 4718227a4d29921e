"""`precision` and `is_compiled` beside plain float32: time and error of the gradient of one
iteration.

Run: python -m tests.benchmarks.precision_table [--quick | --card]. Sizes, networks and clocks are
those of `engine_table.py`: on the CPU bfloat16 and compiled code on the small networks, with
`--card` TF32 too, on those of the paper. The error is that of the images' gradient against `unroll`
in float32, with the cosine of both; what compiling takes is apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.frozen_features import FrozenFeatures
from tasks.core.networks.precision import Precision, frozen_encoder, products, student_model
from tests.benchmarks.iteration import CARD, CPU, QUICK, SMALL, Iteration, Size, Way
from tests.benchmarks.measuring import least_seconds

Run = Callable[[], Tensor]
Form = tuple[str, Precision, bool]
FORMS: tuple[Form, ...] = (
    ("float32", "float32", False),
    ("bfloat16", "bfloat16", False),
    ("compiled", "float32", True),
)
TF32: Form = ("tf32", "tf32", False)


def trained(network: str, engine: str, form: Form, size: Size, device: torch.device) -> Run:
    """One iteration with the whole network trained."""
    _, precision, is_compiled = form
    iteration = Iteration(network, "full", size, device=device)
    iteration.flat = student_model(iteration.flat, precision, is_compiled=is_compiled)

    def run() -> Tensor:
        with products(precision):
            return iteration.run(Way(engine)).inputs["images"]

    return run


def frozen(network: str, form: Form, size: Size, device: torch.device) -> Run:
    """Features of all images, and a random gradient of them pulled back to pixels."""
    _, precision, is_compiled = form
    iteration = Iteration(network, "heads", size, device=device)
    encoder = frozen_encoder(iteration.model.image_encoder, precision, is_compiled=is_compiled)

    def run() -> Tensor:
        with products(precision):
            features = FrozenFeatures(
                encoder, iteration.images, torch.arange(len(iteration.images), device=device)
            )
            draw = torch.randn(
                features.values.shape, generator=make_generator(0, "precision_table")
            )
            return features.pull_back(draw.to(device))

    return run


def print_rows(
    title: str, ways: dict[str, Run], oracle: Tensor, rounds: int, device: torch.device
) -> None:
    """Print a row for each way; the first one is what the others are compared with."""
    started = time.perf_counter()
    found = {name: way() for name, way in ways.items()}
    first_seconds = time.perf_counter() - started
    seconds = least_seconds(ways, rounds, device)
    for name in ways:
        error = float((found[name] - oracle).norm() / oracle.norm())
        cosine = float(
            cosine_similarity(found[name].double().flatten(), oracle.double().flatten(), dim=0)
        )
        ratio = seconds[name] / next(iter(seconds.values()))
        print(
            f"| {title} | {name} | {seconds[name]:.3f} s | {ratio:.2f} | {error:.1e} | "
            f"{cosine:.4f} |",
            flush=True,
        )
    print(
        f"| {title} | first call of all, with compiling | {first_seconds:.0f} s | | | |", flush=True
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--quick", action="store_true", help="tiny sizes; the ratios then mean little"
    )
    kinds.add_argument(
        "--card", action="store_true", help="on the CUDA card, networks of the paper"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda") if options.card else CPU
    exact, every = ((*FORMS[:2], TF32), (*FORMS, TF32)) if options.card else (FORMS[:2], FORMS)
    print("| what | form | time | ratio | error, images | cosine |\n|---|---|---|---|---|---|")
    for network, facts in (CARD if options.card else SMALL).items():
        size = QUICK if options.quick else facts.size
        oracle = trained(network, "unroll", FORMS[0], size, device)()
        forms = {"double_backward": exact, "central_difference": FORMS}
        for engine, chosen in forms.items():
            ways = {form[0]: trained(network, engine, form, size, device) for form in chosen}
            print_rows(f"{network}, {engine}", ways, oracle, size.rounds, device)
        ways = {form[0]: frozen(network, form, size, device) for form in every}
        print_rows(f"{network}, frozen", ways, ways["float32"](), size.rounds, device)


if __name__ == "__main__":
    main()
