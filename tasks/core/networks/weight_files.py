"""Reads weights that a user asks for, by name or from a file, and checks that they fit their
network exactly.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tasks.core.foundations.tensor_files import load_tensors

_OPTION = "model.options.weights"
_WHERE = f"change {_OPTION}"
_FILE = "'random' or the path of a .safetensors file"
# A safetensors file begins with the length of its header, 8 bytes. The header takes about 100 bytes
# per tensor, so 10 MB are room for 100,000 of them.
_LENGTH_BYTES, _MAX_HEADER = 8, 10_000_000


def weight_files(config: Any) -> list[Path]:
    """Return the local files that decide what an image encoder computes; none for weights by
    name.
    """
    return [] if config.weights in ("hub", "random") else [Path(config.weights)]


@contextmanager
def by_name(
    name: str, weights: str, *, allowed: str = _FILE, option: str = _OPTION
) -> Iterator[None]:
    """Say what to do when weights by name (`weights` is `hub`) cannot be had. Other errors pass.

    Args:
        name: of the network, for the message.
        allowed: the other values of the parameter `option`.
        option: the parameter that holds `weights`.

    Raises:
        FileNotFoundError: the hub cannot be reached, or does not have them.
    """
    try:
        yield
    except OSError as error:
        # Libraries raise OSError without a number for a name that they cannot find. An error with a
        # number (a reset connection, a full disk) may heal, and callers may try again.
        if (
            weights != "hub"
            or isinstance(error, TimeoutError)
            or error.errno not in (None, errno.ENOENT)
        ):
            raise
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"the weights of {name!r} cannot be had by name: {reason}; allowed are 'hub' on a "
            "machine that reaches it or has its cache, "
            f"{allowed}; change {option}"
        ) from error


def check_weight_file(path: Path) -> None:
    """Raise FileNotFoundError or ValueError unless `path` is a .safetensors file."""
    allowed = f"allowed are 'hub', 'random' or the path of a .safetensors file; {_WHERE}"
    if not path.is_file():
        raise FileNotFoundError(f"weights {str(path)!r} are not there; {allowed}")
    if path.suffix != ".safetensors":
        raise ValueError(f"weights {str(path)!r} have another format; {allowed}")
    with path.open("rb") as handle:
        num_bytes = int.from_bytes(handle.read(_LENGTH_BYTES), "little")
    if num_bytes == 0 or _MAX_HEADER < num_bytes <= path.stat().st_size:
        raise ValueError(
            f"weights {str(path)!r} have no tensors or too many: their header has {num_bytes:,} "
            f"bytes, allowed are at most {_MAX_HEADER:,}; {allowed}"
        )
    # The loader reports other damage. Here integer weights are refused: they would be cast and give
    # a network that computes something else.
    with suppress(SafetensorError), safe_open(str(path), "pt") as file:
        for name in file.keys():  # noqa: SIM118
            kind = file.get_slice(name).get_dtype()
            if name.endswith((".weight", ".bias")) and kind[0] in "IU":
                raise ValueError(f"weights {str(path)!r}: {name} has the type {kind}; {allowed}")


def read_weight_file(path: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file for the network `name`.

    Raises:
        ValueError: another format, or a damaged file.
        FileNotFoundError: no such file.
    """
    check_weight_file(path)
    try:
        return load_tensors(path)
    except SafetensorError as error:
        raise ValueError(f"weights {str(path)!r} do not fit {name}: {error}; {_WHERE}") from error


def load_exactly(module: nn.Module, state: dict[str, Tensor], *, name: str, weights: str) -> None:
    """Copy `state` into every parameter and buffer of `module`, in place.

    Args:
        name: of the network, for messages.
        weights: where the tensors came from, for messages.

    Raises:
        ValueError: a tensor of the network is missing, the network has no place for one, or shapes
            differ.
    """
    own = module.state_dict()
    # Files converted from elsewhere carry no counter, and in eval mode no layer reads it.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    other = [key for key in own if key in state and own[key].shape != state[key].shape]
    problem = None
    if missing:
        problem = (
            f"the file lacks {len(missing)} of {len(own)} tensors, first {', '.join(missing[:3])}"
        )
    elif unknown:
        problem = (
            f"the network has no place for {len(unknown)} tensors of the file, first "
            f"{', '.join(unknown[:3])}"
        )
    elif other:
        problem = (
            f"{other[0]} has shape {tuple(state[other[0]].shape)}, needed is "
            f"{tuple(own[other[0]].shape)}"
        )
    if problem:
        raise ValueError(
            f"weights {weights!r} do not fit {name}: {problem}; allowed is a file of that very "
            f"network; {_WHERE}"
        )
    # Not strict, because the counters of BatchNorm may be missing; all else was checked above
    module.load_state_dict(state, strict=False)
