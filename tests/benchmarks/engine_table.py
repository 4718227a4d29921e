"""The gradient engines beside our own `unroll`: time, memory, set-up and growth of one iteration of 8 student steps.

Run: python -m tests.benchmarks.engine_table [--quick | --native] [--only NETWORK]. One thread, with the products that stages use
(tasks/core/matrix_products.py). `--native` measures networks of the paper at their own resolution instead of the small ones of the
tests, `--only` the engines on one network. Times are processor seconds, the least of some rounds in
which the sides take turns, so that other load on the machine counts little; `compiled` is `forward_difference` with
`is_compiled`, without the time of compiling. Memory is the peak of the resident set of a fresh process per number, over the
same process with the idle model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tasks.core.dual_encoder import build_dual_encoder
from tasks.core.experts import SNAPSHOTS, Buffer
from tasks.core.frozen_features import FrozenFeatures
from tasks.core.functional import FlatModel
from tasks.core.image_encoders import timm
from tasks.core.losses import info_nce
from tasks.core.matching import ENGINES, Gradient, Segment, draw_batches, trajectory_gradient
from tasks.core.matrix_products import are_better, use_fast_products
from tasks.core.precision import check_machine, student_model
from tasks.core.seeding import make_generator
from tasks.core.tensor_files import load_tensors, save_tensors

TEXT_DIM, STEPS, SNAPSHOTS_PER_EXPERT = 64, 8, 11
COMPILED = "compiled"  # `forward_difference` with `is_compiled`


@dataclass(frozen=True)
class Size:
    """Pairs of the set and of a batch, pixels and rounds of timing."""

    pairs: int
    batch: int
    pixels: int
    rounds: int


FULL, QUICK = Size(64, 32, 64, 5), Size(8, 4, 64, 2)


@dataclass(frozen=True)
class Network:
    """A timm network, its size, the engines to measure and the targets of memory and time against `unroll`."""

    kwargs: dict[str, Any]
    size: Size
    engines: tuple[str, ...]
    memory_target: float
    time_target: float


NATIVE_ENGINES = ("unroll", "double_backward", "central_difference", "forward_difference", COMPILED)
SMALL = {
    "test_nfnet": Network({}, FULL, (*ENGINES, COMPILED), 0.15, 0.8),
    "test_vit": Network({"img_size": 64}, FULL, (*ENGINES, COMPILED), 0.30, 0.6),
}
NATIVE = {  # batches that `unroll` can hold twice in 24 GiB
    "nfnet_l0": Network({}, Size(8, 4, 224, 2), NATIVE_ENGINES[:-1], 0.15, 0.8),
    "vit_tiny_patch16_224": Network({}, Size(24, 12, 224, 2), NATIVE_ENGINES, 0.30, 0.6),
}
NETWORKS = {**SMALL, **NATIVE}


class Iteration:
    """One outer iteration on random images and texts, ready to run with any engine."""

    def __init__(self, network: str, trainable: str, size: Size, *, is_compiled: bool = False) -> None:
        config = timm.Config(name=network, weights="random", kwargs=NETWORKS[network].kwargs, mean=None, std=None)
        encoder = timm.build(config, seed=0)
        self.model = build_dual_encoder(
            encoder.module, out_dim=encoder.out_dim, text_dim=TEXT_DIM, trainable=trainable,
            embed_dim=encoder.out_dim if trainable == "heads" else None, dropout=0.1, seed=0,
        )  # fmt: skip
        self.flat = student_model(FlatModel(self.model), "float32", is_compiled=is_compiled)
        self.is_frozen = trainable == "heads"
        self.theta = self.flat.flatten()
        target = {g: v + 0.02 * v.norm() * torch.randn(v.shape, generator=_named(g)) / len(v) ** 0.5 for g, v in self.theta.items()}
        self.segment = Segment.between(self.theta, target)
        images = torch.randn(size.pairs, 3, size.pixels, size.pixels, generator=_named("images"))
        self.images = images.contiguous(memory_format=torch.channels_last)  # as the outer state holds them
        self.texts = torch.randn(size.pairs, TEXT_DIM, generator=_named("texts"))
        self.batches = draw_batches(size.pairs, size.batch, STEPS, _named("batches"))
        self.logs = {"img": torch.tensor(0.02).log(), "txt": torch.tensor(0.1).log()}

    def run(self, engine: str) -> Gradient:
        """Return the gradient; with frozen encoders through features, and pulled back to pixels."""
        frozen = FrozenFeatures(self.model.image_encoder, self.images, torch.cat(self.batches)) if self.is_frozen else None
        inputs = {"images": self.images if frozen is None else frozen.values, "texts": self.texts}
        found = trajectory_gradient(self._loss, self.theta, inputs, self.batches, self.logs, self.segment.loss, engine=engine)
        if frozen is not None:
            found.inputs["images"] = frozen.pull_back(found.inputs["images"])
        return found

    def _loss(self, theta: dict[str, torch.Tensor], rows: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        return info_nce(*self.flat.call(theta, rows["images"], rows["texts"], make_generator(3, "dropout", step)))


def processor_seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least processor time of each way; they take turns. The first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append(time.process_time() - started)
    return {name: min(values) for name, values in seconds.items()}


def engine_rows(network: str, size: Size) -> tuple[list[str], list[str]]:
    """Return time, memory and error of every engine on one network, and both verdicts on the fastest and on the differences."""
    iteration, engines = Iteration(network, "full", size), [name for name in NETWORKS[network].engines if name != COMPILED]
    ways = {engine: partial(iteration.run, engine) for engine in engines}
    if COMPILED in NETWORKS[network].engines:
        try:
            check_machine("float32", is_compiled=True, device=torch.device("cpu"))
            ways[COMPILED] = partial(Iteration(network, "full", size, is_compiled=True).run, "forward_difference")
        except ValueError as error:
            print(f"no row `{COMPILED}`: {error}", file=sys.stderr)
    images = {name: way().inputs["images"] for name, way in ways.items()}
    oracle = images["unroll"]
    errors = {name: float((found - oracle).norm() / oracle.norm()) for name, found in images.items()}
    seconds = processor_seconds(ways, size.rounds)
    memory = {engine: _peak_mib(network, engine, size) for engine in ways}
    rows = []
    for name in ways:
        held = f"{memory[name]:.0f} MiB | {memory[name] / memory['unroll']:.2f}"
        time_taken = f"{seconds[name]:.3f} s | {seconds[name] / seconds['unroll']:.2f}"
        rows.append(f"| {network} | {name} | {time_taken} | {held} | {errors[name]:.0e} |")
    compared = [name for name in ways if name not in ("unroll", "tesla")]
    verdicts = []
    for best in sorted({min(compared, key=lambda name: seconds[name]), "forward_difference", "central_difference"}):
        verdicts.append(_verdict(f"{network}, time of {best}", seconds[best] / seconds["unroll"], NETWORKS[network].time_target))
        verdicts.append(_verdict(f"{network}, memory of {best}", memory[best] / memory["unroll"], NETWORKS[network].memory_target))
    return rows, verdicts


def heads_row(size: Size) -> str:
    """`heads` against `full`, each with its best engine, same encoder and batch."""
    full, heads = Iteration("test_nfnet", "full", size), Iteration("test_nfnet", "heads", size)
    seconds = processor_seconds(
        {"full": lambda: full.run("forward_difference"), "heads": lambda: heads.run("double_backward")}, size.rounds
    )
    return _verdict(f"heads {seconds['heads']:.3f} s against full {seconds['full']:.3f} s", seconds["heads"] / seconds["full"], 0.2)


def set_up_row(size: Size) -> str:
    """Ten iterations' start and target from the buffer against reading an expert whole and building the model, each time."""
    iteration = Iteration("test_nfnet", "full", size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tensors(
            folder / SNAPSHOTS, {f"{g}_{e:03d}": v + 0.01 * e for g, v in iteration.theta.items() for e in range(SNAPSHOTS_PER_EXPERT)}
        )

        def published() -> None:
            for _ in range(10):
                load_tensors(folder / SNAPSHOTS)
                Iteration("test_nfnet", "full", QUICK)

        def ours() -> None:
            buffer = Buffer([folder], iteration.theta, device=torch.device("cpu"))
            for number in range(10):
                buffer.snapshot(0, number % 2), buffer.snapshot(0, number % 2 + 1)

        seconds = processor_seconds({"published": published, "ours": ours}, size.rounds)
    return _verdict(
        f"set-up of 10 iterations {seconds['ours']:.4f} s against {seconds['published']:.3f} s",
        seconds["ours"] / seconds["published"],
        0.05,
    )


def growth_rows(size: Size) -> list[str]:
    """Ten times the pairs with the same mini-batch: time, and memory beyond images, texts and their gradients."""
    few, many = Size(100, size.batch, size.pixels, size.rounds), Size(1000, size.batch, size.pixels, size.rounds)
    iterations = {"100 pairs": Iteration("test_nfnet", "full", few), "1000 pairs": Iteration("test_nfnet", "full", many)}
    seconds = processor_seconds({n: (lambda i=i: i.run("forward_difference")) for n, i in iterations.items()}, size.rounds)
    more = _peak_mib("test_nfnet", "forward_difference", many) - _peak_mib("test_nfnet", "forward_difference", few)
    # The idle process holds images and texts; an iteration adds their gradient.
    pairs = (many.pairs - few.pairs) * (3 * size.pixels**2 + TEXT_DIM) * 4 / 2**20
    return [
        _verdict("time with 1000 pairs against 100", seconds["1000 pairs"] / seconds["100 pairs"], 1.1),
        _verdict(f"memory with 1000 pairs: {more:.0f} MiB more, of which gradients of the pairs {pairs:.0f} MiB", more / pairs, 1.2),
    ]


def main() -> None:
    """Print the table, or one memory measurement for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the ratios then mean little")
    parser.add_argument("--native", action="store_true", help="nfnet_l0 and vit_tiny at 224 px, engines alone; a quarter of an hour")
    parser.add_argument("--only", choices=NETWORKS, help="this network alone, and no other table")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_fast_products()
    if options.peak:
        network, engine, *numbers = json.loads(options.peak)
        iteration = Iteration(network, "full", Size(*numbers), is_compiled=engine == COMPILED)
        if engine == COMPILED:
            iteration.run("forward_difference")  # compiles
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, at what is resident now
        idle = _resident_peak_mib()
        iteration.run("forward_difference" if engine == COMPILED else engine)
        print(_resident_peak_mib() - idle)
        return
    print(f"Products by {'oneDNN' if are_better() else 'torch'}, {torch.backends.cpu.get_cpu_capability()}.\n")
    print("| network | engine | processor time | against unroll | memory | against unroll | error, images |\n|---|---|---|---|---|---|---|")
    verdicts = []
    for name, network in ({options.only: NETWORKS[options.only]} if options.only else NATIVE if options.native else SMALL).items():
        rows, judged = engine_rows(name, QUICK if options.quick else network.size)
        print("\n".join(rows), flush=True)
        verdicts += judged
    print("\n| what | ratio | target | |\n|---|---|---|---|")
    if not options.native and not options.only:
        size = QUICK if options.quick else FULL
        verdicts += [heads_row(size), set_up_row(size), *growth_rows(size)]
    print("\n".join(verdicts))


def _peak_mib(network: str, engine: str, size: Size) -> float:
    numbers = [size.pairs, size.batch, size.pixels, size.rounds]
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.engine_table", "--peak", json.dumps([network, engine, *numbers])]
    # glibc's per-thread arenas would make the peak depend on chance. With a fixed threshold a freed tensor is no longer resident, so
    # that the run that compiles leaves nothing for the next one to use.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def _resident_peak_mib() -> float:
    """Peak of this program (Linux). `ru_maxrss` would start at the size of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _named(name: str) -> torch.Generator:
    return make_generator(0, "engine_table", name)


def _verdict(what: str, ratio: float, target: float) -> str:
    return f"| {what} | {ratio:.3f} | <= {target:g} | {'met' if ratio <= target else 'MISSED'} |"


if __name__ == "__main__":
    main()
