"""Says which sets may be compared with random pairs of equal bytes.

`random_equal_bytes-100` has the bytes of 100 synthetic pairs in 8 bits. A set in float32 takes four
times as many, so that the same real pairs would flatter it: it has no such ratio.
"""

from __future__ import annotations

TOLERANCE = 0.1  # a set may differ by this share of the bytes of the real pairs


def are_comparable(set_bytes: float | None, real_bytes: float | None) -> bool:
    """Return whether a set takes as many bytes as the real pairs, within the tolerance.

    Bytes that are unknown (None or NaN) are not comparable.
    """
    if set_bytes is None or real_bytes is None:
        return False
    return abs(set_bytes - real_bytes) <= TOLERANCE * real_bytes
