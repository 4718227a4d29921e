"""Chooses the gradient engine that `auto` stands for, by rules that were measured
(tests/benchmarks/engine_table.py). `engine_probe.py` finds out the facts about the network.
"""

from __future__ import annotations

from dataclasses import dataclass

# Largest error in the probe at which differences are used. The probe has few pairs and has learnt
# no length yet, so that errors are large. Of 39 timm networks with random weights at 64 px, 38 are
# off by 9e-5 to 0.17, efficientvit_b0 by 0.46. Networks with kinks that are not held are off by 0.8
# to 20000.
MAX_ERROR = 0.3


@dataclass(frozen=True)
class Facts:
    """What a probe found out about a trained network; the same in every run on one machine.

    Attributes:
        error: |differences - second derivatives| / |second derivatives|, the larger one of images
            and texts; None where the network has no second derivatives to compare with.
        missing: the message of torch that names the operation without a second derivative.
        exact_bytes: memory that the graph of `double_backward` holds for one student step.
        memory_bytes: memory of the device; None on the CPU, where nothing is refused for its
            memory.
    """

    error: float | None
    missing: str | None = None
    exact_bytes: int = 0
    memory_bytes: int | None = None


def explain_engine(*, is_encoder_frozen: bool, facts: Facts | None = None) -> tuple[str, str]:
    """Return the name of an engine of `engines.py`, and why.

    The rules follow from measurements (tests/benchmarks/README.md, "engines by network"):

    * frozen encoder: `double_backward`. The student is two small projections, and the exact
      gradient costs next to nothing.
    * trained encoder: `central_difference`. It is the fastest engine that is accurate on every
      network, in the least memory. `forward_difference` is faster, but its sets are worse.
    * networks on which differences fail: `double_backward`, if its graph fits. Reasons are kinks
      that `kinks.py` does not hold, or a curvature out of the ordinary. Among the exact engines it
      takes the least memory.

    The number of gradients an engine takes decides its speed. So a GPU has the same rules.

    Args:
        is_encoder_frozen: whether the student trains projections on features only.
        facts: about the network; None where they are not known, or where the encoder is compiled
            and has first derivatives only.
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
    # An error that is not a number is none that is allowed
    if facts.error <= MAX_ERROR:
        return "central_difference", found
    # If this graph does not fit, no exact engine does, for they take more memory
    needed, there = facts.exact_bytes, facts.memory_bytes
    if there is not None and needed > there:
        return (
            "central_difference",
            f"{found}, but the exact one needs {needed / 2**30:.1f} GiB of {there / 2**30:.1f}",
        )
    return "double_backward", f"that of differences is off by {facts.error:.0e} on a few pairs"
