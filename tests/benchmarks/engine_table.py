"""The gradient engines beside our own `unroll`: time, memory, set-up and growth of one iteration of
8 student steps.

Run: python -m tests.benchmarks.engine_table [--quick | --native | --card] [--only NETWORK]. On the
CPU one thread; `--card` measures on the CUDA card, in float32 without TF32. `--native` and `--card`
take networks of the paper at their own resolution instead of the small ones of the tests, `--only`
the engines on one network. The sides take turns and the least of some rounds counts
(`measuring.py`); compiled ways are without the time of compiling. Memory is the peak over the idle
model: on the CPU of the resident set of a fresh process per number, on a card of what torch
allocates.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tasks.core.distillation.buffer import Buffer
from tasks.core.foundations.tensor_files import load_tensors, save_tensors
from tasks.core.networks.precision import check_machine, products
from tasks.core.training.experts import SNAPSHOTS
from tests.benchmarks.iteration import (
    CARD,
    CPU,
    FULL,
    NATIVE,
    NETWORKS,
    QUICK,
    SMALL,
    TEXT_DIM,
    Iteration,
    Network,
    Size,
    Way,
)
from tests.benchmarks.measuring import (
    STEADY_MEMORY,
    card_peak_mib,
    forget_process_peak,
    in_fresh_process,
    least_seconds,
    process_peak_mib,
)  # fmt: skip

SNAPSHOTS_PER_EXPERT = 11
UNROLL, BEST, EXACT = Way("unroll"), Way("forward_difference"), Way("double_backward")


class Table:
    """Rows and verdicts of one device.

    Args:
        size: of the tables that compare `heads`, set-up and growth; None takes each network's own
            for the engines.
        network: on which these compare.
    """

    def __init__(self, device: torch.device, *, size: Size | None, network: str) -> None:
        self.device, self.size, self.network = device, size, network
        self.verdicts: list[str] = []

    def engines(self, name: str, network: Network) -> None:
        """Print time, memory and error of every engine, and note the verdicts on the fastest and on
        the differences.
        """
        size = self.size or network.size
        ways, skipped = (
            {},
            self._why_not_compiled() if any(way.is_compiled for way in network.ways) else "",
        )
        for way in network.ways:
            if way.is_compiled and skipped:
                print(f"no row `{way.name}`: {skipped}", file=sys.stderr)
                continue
            ways[way.name] = way
        forms = {way.is_compiled for way in ways.values()}
        iterations = {
            form: Iteration(name, "full", size, is_compiled=form, device=self.device)
            for form in forms
        }
        runs = {label: partial(iterations[way.is_compiled].run, way) for label, way in ways.items()}
        # First, while this process is small: the other one needs the machine's memory too.
        memory = {
            label: self._peak_mib(name, way, size, runs[label]) for label, way in ways.items()
        }
        images = {label: run().inputs["images"] for label, run in runs.items()}
        oracle = images.pop(UNROLL.name)
        errors = {
            label: float((found - oracle).norm() / oracle.norm()) for label, found in images.items()
        }
        del images, oracle
        seconds = least_seconds(runs, size.rounds, self.device)
        for label in ways:
            time_taken = f"{seconds[label]:.3f} s | {seconds[label] / seconds[UNROLL.name]:.3f}"
            held = f"{memory[label]:.0f} MiB | {memory[label] / memory[UNROLL.name]:.2f}"
            print(
                f"| {name} | {label} | {time_taken} | {held} | {errors.get(label, 0.0):.0e} |",
                flush=True,
            )
        compared = [label for label in ways if label not in (UNROLL.name, "tesla")]
        for best in sorted(
            {min(compared, key=lambda label: seconds[label]), BEST.name, "central_difference"}
        ):
            self._judge(
                f"{name}, time of {best}", seconds[best] / seconds[UNROLL.name], network.time_target
            )
            self._judge(
                f"{name}, memory of {best}",
                memory[best] / memory[UNROLL.name],
                network.memory_target,
            )

    def heads(self, size: Size) -> None:
        """`heads` against `full`, each with its best engine, same encoder and batch."""
        full, heads = (
            Iteration(self.network, trainable, size, device=self.device)
            for trainable in ("full", "heads")
        )
        seconds = least_seconds(
            {"full": partial(full.run, BEST), "heads": partial(heads.run, EXACT)},
            size.rounds,
            self.device,
        )
        what = f"heads {seconds['heads']:.3f} s against full {seconds['full']:.3f} s"
        self._judge(what, seconds["heads"] / seconds["full"], 0.2)

    def set_up(self, size: Size) -> None:
        """Ten iterations' start and target from the buffer against reading an expert whole and
        building the model, each time.
        """
        iteration = Iteration(self.network, "full", size, device=self.device)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            theta = {group: value.cpu() for group, value in iteration.theta.items()}
            epochs = range(SNAPSHOTS_PER_EXPERT)
            save_tensors(
                folder / SNAPSHOTS,
                {f"{g}_{e:03d}": v + 0.01 * e for g, v in theta.items() for e in epochs},
            )

            def published() -> None:
                for _ in range(10):
                    load_tensors(folder / SNAPSHOTS)
                    Iteration(self.network, "full", QUICK, device=self.device)

            def ours() -> None:
                buffer = Buffer([folder], iteration.theta, device=self.device)
                for number in range(10):
                    buffer.snapshot(0, number % 2), buffer.snapshot(0, number % 2 + 1)

            seconds = least_seconds(
                {"published": published, "ours": ours}, min(size.rounds, 3), self.device
            )
        what = (
            f"set-up of 10 iterations {seconds['ours']:.4f} s against {seconds['published']:.3f} s"
        )
        self._judge(what, seconds["ours"] / seconds["published"], 0.05)

    def growth(self, size: Size) -> None:
        """Ten times the pairs with the same mini-batch: time, and memory beyond images, texts and
        their gradients.
        """
        few, many = (Size(pairs, size.batch, size.pixels, size.rounds) for pairs in (100, 1000))
        runs = {
            s.pairs: partial(Iteration(self.network, "full", s, device=self.device).run, BEST)
            for s in (few, many)
        }
        seconds = least_seconds(
            {str(pairs): run for pairs, run in runs.items()}, size.rounds, self.device
        )
        more = self._peak_mib(self.network, BEST, many, runs[1000]) - self._peak_mib(
            self.network, BEST, few, runs[100]
        )
        # The idle process holds images and texts; an iteration adds their gradient.
        pairs = (many.pairs - few.pairs) * (3 * size.pixels**2 + TEXT_DIM) * 4 / 2**20
        self._judge("time with 1000 pairs against 100", seconds["1000"] / seconds["100"], 1.1)
        self._judge(
            f"memory with 1000 pairs: {more:.0f} MiB more, of which gradients of the pairs "
            f"{pairs:.0f} MiB",
            more / pairs,
            1.2,
        )

    def _why_not_compiled(self) -> str:
        try:
            check_machine("float32", is_compiled=True, device=self.device)
        except ValueError as error:
            return str(error)
        return ""

    def _peak_mib(self, network: str, way: Way, size: Size, run: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            run()  # loads kernels, and compiles
            return card_peak_mib(run)
        what = [
            network,
            way.engine,
            way.is_compiled,
            way.is_theta_on_host,
            size.pairs,
            size.batch,
            size.pixels,
            size.rounds,
        ]
        return float(
            in_fresh_process(
                "tests.benchmarks.engine_table", ["--peak", json.dumps(what)], STEADY_MEMORY
            )
        )

    def _judge(self, what: str, ratio: float, target: float) -> None:
        self.verdicts.append(
            f"| {what} | {ratio:.3f} | <= {target:g} | {'met' if ratio <= target else 'MISSED'} |"
        )


def print_peak(text: str) -> None:
    """Print the peak of one iteration in this process over the idle one, for the process that
    asked.
    """
    network, engine, is_compiled, is_theta_on_host, *numbers = json.loads(text)
    way, iteration = (
        Way(engine, is_compiled, is_theta_on_host),
        Iteration(network, "full", Size(*numbers), is_compiled=is_compiled),
    )
    if is_compiled:
        iteration.run(way)  # compiles
        forget_process_peak()
    idle = process_peak_mib()
    iteration.run(way)
    print(process_peak_mib() - idle)


def main() -> None:
    """Print the table, or one memory measurement for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--quick", action="store_true", help="tiny sizes; the ratios then mean little"
    )
    kinds.add_argument(
        "--native",
        action="store_true",
        help="nfnet_l0 and vit_tiny at 224 px, engines alone; a quarter of an hour",
    )
    kinds.add_argument(
        "--card",
        action="store_true",
        help="on the CUDA card: nfnet_l0, vit_tiny and vit_base at 224 px",
    )
    parser.add_argument("--only", choices=NETWORKS, help="this network alone, and no other table")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda") if options.card else CPU
    if options.peak:
        print_peak(options.peak)
        return
    where = torch.cuda.get_device_name() if options.card else "CPU"
    print(f"{where}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}.\n")
    print(
        "| network | engine | time | against unroll | memory | against unroll | error, images "
        "|\n|---|---|---|---|---|---|---|"
    )
    table = Table(
        device,
        size=QUICK if options.quick else None,
        network="nfnet_l0" if options.card else "test_nfnet",
    )
    networks = CARD if options.card else NATIVE if options.native else SMALL
    with products("float32"):
        for name, network in (
            {options.only: networks.get(options.only, NETWORKS[options.only])}
            if options.only
            else networks
        ).items():
            table.engines(name, network)
        if not options.native and not options.only:
            size = (
                QUICK if options.quick else networks[table.network].size if options.card else FULL
            )
            table.heads(size)
            table.set_up(size)
            table.growth(size)
    print("\n| what | ratio | target | |\n|---|---|---|---|")
    print("\n".join(table.verdicts))


if __name__ == "__main__":
    main()
