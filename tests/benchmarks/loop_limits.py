"""The parts of an iteration with a frozen encoder, against what the machine could do.

Run: python -m tests.benchmarks.loop_limits [--pairs N] [--pixels N]. One thread, processor seconds,
the least of several rounds. The limit of a layer is the larger of two times: its operations at the
rate of a large matrix product, and its bytes (input, output, weights) at the rate of a copy between
tensors that no cache holds. Parts are a MobileNetV2 with its BatchNorm folded and random weights,
its gradient back to the pixels, and one student of 8 steps on its features.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import trajectory_gradient
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.frozen_features import FrozenFeatures, prepare_frozen
from tasks.core.networks.functional import FlatModel
from tasks.core.networks.image_encoders import timm
from tasks.core.training.losses import info_nce
from tests.benchmarks.measuring import least_seconds

ROUNDS, TEXT_DIM, WIDTH, STEPS = 5, 384, 512, 8
CPU = torch.device("cpu")
FLOAT = 4  # bytes
# A product forward, and four of its size to differentiate a step once and twice (METHOD 5)
PRODUCTS_OF_A_STEP = 3 * 4


def rates() -> tuple[float, float]:
    """Return operations and bytes a second: of a large product, and of a copy."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    source = torch.randn(64 * 2**20 // FLOAT)
    target = torch.empty_like(source)
    found = least_seconds(
        {"product": lambda: left @ right, "copy": lambda: target.copy_(source)}, 10, CPU
    )
    num_bytes = 2 * source.numel() * FLOAT
    return 2 * 1024**3 / found["product"], num_bytes / found["copy"]


def limit_of(network: nn.Module, images: Tensor, at: tuple[float, float]) -> tuple[float, float]:
    """Return operations of a forward pass, and the seconds that its layers take at the least."""
    totals = [0.0, 0.0]

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        operations, weights = 0.0, 0
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weights = layer.weight.numel()
            operations = 2.0 * output.numel() * weights / layer.weight.shape[0]
        num_bytes = FLOAT * (inputs[0].numel() + output.numel() + weights)
        totals[0] += operations
        totals[1] += max(operations / at[0], num_bytes / at[1])

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(note) for layer in leaves]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return totals[0], totals[1]


def student(features: Tensor, texts: Tensor) -> Callable[[], object]:
    """Return the gradient of 8 student steps on features, as one goal of an iteration takes it."""
    model = build_dual_encoder(
        nn.Identity(),
        out_dim=features.shape[1],
        text_dim=TEXT_DIM,
        trainable="heads",
        embed_dim=WIDTH,
        dropout=0.1,
        seed=0,
    )
    flat = FlatModel(model)
    theta, logs = flat.flatten(), {name: torch.tensor(-2.0) for name in ("img", "txt")}
    count = len(features)
    batches = draw_batches(count, count, STEPS, make_generator(0))

    def loss(at: dict[str, Tensor], rows: dict[str, Tensor], step: int) -> Tensor:
        return info_nce(*flat.call(at, rows["features"], rows["text_embeds"], None))

    def terminal(at: dict[str, Tensor]) -> Tensor:
        return info_nce(*flat.call(at, features.roll(1, 0), texts, None))

    rows = {"features": features, "text_embeds": texts}
    return lambda: trajectory_gradient(
        loss, theta, rows, batches, logs, terminal, engine="double_backward"
    )


def main() -> None:
    """Print seconds, limit and ratio of each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--pixels", type=int, default=160)
    options = parser.parse_args()
    torch.set_num_threads(1)
    at = rates()
    kwargs = {"pad_type": "same"}
    config = timm.Config(
        name="mobilenetv2_100", weights="random", kwargs=kwargs, mean=None, std=None
    )
    shape = (options.pairs, 3, options.pixels, options.pixels)
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    network = prepare_frozen(timm.build(config, seed=0).module, images[:2])
    operations, forward = limit_of(network, images[:16], at)
    # Passes are of 16 images, whose weights are read again
    operations, forward = (value * options.pairs / 16 for value in (operations, forward))
    every = torch.arange(options.pairs)
    frozen = FrozenFeatures(network, images, every)
    grads, texts = torch.randn_like(frozen.values), torch.randn(options.pairs, TEXT_DIM)
    products = 2.0 * options.pairs * WIDTH * (frozen.values.shape[1] + TEXT_DIM + 2 * WIDTH)
    goal = STEPS * PRODUCTS_OF_A_STEP * products / at[0]
    parts = {
        "features": lambda: FrozenFeatures(network, images, every),
        "pull-back": lambda: frozen.pull_back(grads),
        "a goal": student(frozen.values, texts),
    }
    # Back to the pixels: the pass again, and the same products the other way
    limits = {"features": forward, "pull-back": 2 * forward, "a goal": goal}
    print(f"product {at[0] / 1e9:.0f} GFLOP/s, copy {at[1] / 1e9:.1f} GB/s")
    print(f"{options.pairs} images of {options.pixels} px, {operations / 1e9:.1f} GFLOP a pass")
    for name, seconds in least_seconds(parts, ROUNDS, CPU).items():
        limit = limits[name]
        print(f"{name:<10} {seconds:7.3f} s, limit {limit:7.3f} s, {seconds / limit:5.2f}x")


if __name__ == "__main__":
    main()
