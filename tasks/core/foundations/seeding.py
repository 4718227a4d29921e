"""Makes a generator out of one seed and a name. A new consumer of random numbers then changes the
draws of no other.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and every name (sha256, stable across
    platforms).
    """
    # Python's own hash differs between processes. 63 bits fit into a signed integer.
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(
    seed: int, *names: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a `torch.Generator` on `device`, seeded by `derive_seed(seed, *names)`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, *names))
    return generator
