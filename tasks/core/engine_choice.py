"""Which gradient engine `auto` stands for, by measurement (tests/benchmarks/engine_table.py)."""

from __future__ import annotations


def choose_engine(*, is_encoder_frozen: bool) -> str:
    """Return the name of an engine of `matching.py`.

    Measured on one CPU thread, 8 steps, batch 32, float32: processor time and peak memory over those of `unroll`, and the error of
    the gradient of the images:

    | network | double_backward | forward_over_reverse | central_difference | forward_difference |
    |---|---|---|---|---|
    | NF-net (test_nfnet, 64 px) | 1.23, 0.20, exact | 1.34, 0.35, exact | 0.77, 0.07, 1e-3 | 0.51, 0.08, 1e-2 |
    | attention (test_vit, 64 px) | 1.33, 0.27, exact | 1.73, 0.45, exact | 1.01, 0.18, 3e-4 | 0.71, 0.25, 4e-3 |

    * frozen encoders: `double_backward`; the student is two small projections, and the exact gradient costs next to nothing.
    * trained encoders: `central_difference`, in the memory of ordinary training. `forward_difference` is faster, but its sets
      are not better: on toy (NF-net, 20 / 50 pairs, Adam outside) 17.4 / 25.8 and 18.9 / 33.1 mean recall in two runs, where the central
      one had 22.3 / 30.8 and 25.2 / 34.9 (runs that round differently differ by 3). It stays for those who ask for it.
    * MobileNetV2 (64 px): time over that of `unroll` 1.06, 0.88, 1.03, 0.66, errors of the differences 9e-4 and 5e-3: where most
      activations are piecewise, `forward_over_reverse` is exact and faster than the default, which does not know the network.

    The differences beat the exact engines in memory too, so memory decides nothing. On a GPU nothing was measured; the rules are
    the same there, since the number of gradients is.

    Args:
        is_encoder_frozen: whether the student trains projections on features only.
    """
    return "double_backward" if is_encoder_frozen else "central_difference"
