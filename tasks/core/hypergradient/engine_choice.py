"""Which gradient engine `auto` stands for, by measurement (tests/benchmarks/engine_table.py);
`engine_probe.py` asks the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Engine = Literal[
    "unroll",
    "double_backward",
    "forward_over_reverse",
    "central_difference",
    "forward_difference",
    "tesla",
]

# Largest error of differences in the probe that is taken for theirs. Of 39 timm networks with
# random weights at 64 px, 38 are off by 9e-5 to 0.17 there (few pairs, no length learnt yet) and
# efficientvit_b0 by 0.46; networks with kinks that are not held by 0.8 to 20000.
MAX_ERROR = 0.3


@dataclass(frozen=True)
class Facts:
    """What a probe found out about a trained network, the same in every run on a machine.

    Attributes:
        error: |differences - second derivatives| / |second derivatives| of the gradient of images
            and texts, the larger of both; None where nothing can be compared.
        missing: why: torch's words for what has no second derivative.
        exact_bytes: that the graph of `double_backward` holds of a student step, in all.
        memory_bytes: of the device; None on the CPU, where nothing is refused for its memory.
    """

    error: float | None
    missing: str | None = None
    exact_bytes: int = 0
    memory_bytes: int | None = None


def choose_engine(*, is_encoder_frozen: bool, facts: Facts | None = None) -> Engine:
    """Return the name of an engine of `trajectory.py`; see `explain_engine`. Without facts it is
    what a usual network gets.
    """
    return explain_engine(is_encoder_frozen=is_encoder_frozen, facts=facts)[0]


def explain_engine(*, is_encoder_frozen: bool, facts: Facts | None = None) -> tuple[Engine, str]:
    """Return the name of an engine of `trajectory.py`, and why.

    Measured on one CPU thread with torch's own products, 8 steps, batch 32 (the MobileNets 16), 64
    px, float32: processor time and peak memory over those of `unroll`, and the error of the
    gradient of the images:

    | network | double_backward | forward_over_reverse | central_difference | forward_difference |
    |---|---|---|---|---| | NF-net (test_nfnet) | 1.18, 0.20, exact | 1.41, 0.35, exact | 0.78,
    0.07, 6e-4 | 0.53, 0.08, 1e-2 | | attention (test_vit) | 1.28, 0.27, exact | 1.73, 0.45, exact |
    0.98, 0.18, 2e-4 | 0.67, 0.25, 3e-3 | | ReLU, BatchNorm (test_resnet) | 1.13, 0.26, exact |
    1.10, 0.33, exact | 0.87, 0.17, 6e-4 | 0.62, 0.20, 7e-3 | | ReLU6, BatchNorm (mobilenetv2_100) |
    1.10, 0.26, exact | 0.85, 0.35, exact | 0.53, 0.23, 4e-4 | 0.34, 0.27, 4e-3 | | hard swish
    (mobilenetv3_small_050) | 1.18, 0.41, exact | 1.31, 0.49, exact | 0.86, 0.41, 5e-4 | 0.58, 0.49,
    3e-3 |

    * frozen encoders: `double_backward`; the student is two small projections, and the exact
      gradient costs next to nothing.
    * trained encoders: `central_difference`, the fastest engine that is accurate on every network,
      in the least memory. `forward_difference` is faster, but its sets are worse: on toy (NF-net,
      20 / 50 pairs, Adam outside) 19.6 / 31.6 mean recall over four seeds, where the central one
      has 21.5 / 35.0; 2.7 less in the mean of the eight pairs, standard error 0.7
      (infra/log/flickr8k.md). It stays for those who ask for it.
    * networks on which differences fail, for kinks that `kinks.py` does not hold or a curvature out
      of the ordinary: `double_backward`, which among the exact engines takes the least memory and,
      but for MobileNetV2, no more time, if its graph fits.

    The order of the engines follows from the number of gradients, hence the rules are the same on a
    GPU: nfnet_l0 at 224 px, batch 16, on an H100 takes 1.16 to 1.22, 1.67 to 2.04, 0.57 to 0.74 and
    0.40 to 0.51 of the time of `unroll`, in the order of the columns.

    Args:
        is_encoder_frozen: whether the student trains projections on features only.
        facts: about the network; None where they are not known, or the encoder is compiled and has
            first derivatives alone.
    """
    if is_encoder_frozen:
        return (
            "double_backward",
            "the encoder is frozen, and the exact gradient of two projections costs next to "
            "nothing",
        )
    if facts is None:
        return "central_difference", "it needs first derivatives alone"
    if facts.error is None:
        return "central_difference", f"there is nothing else: {facts.missing}"
    found = f"its gradient is off by {facts.error:.0e} on a few pairs"
    if not facts.error > MAX_ERROR:
        return "central_difference", found
    needed, there = facts.exact_bytes, facts.memory_bytes
    if there is not None and needed > there:
        return (
            "central_difference",
            f"{found}, but the exact one needs {needed / 2**30:.1f} GiB of {there / 2**30:.1f}",
        )
    return "double_backward", f"that of differences is off by {facts.error:.0e} on a few pairs"
