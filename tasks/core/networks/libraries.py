"""What the libraries that networks come from raise, said as one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def said(what: str, allowed: str) -> Iterator[None]:
    """Say `what` a library cannot do with a user's choice; its errors are of any type.

    Files that are not there and memory that is too small are no matter of the choice and pass.

    Args:
        allowed: what is allowed, and where to change it.

    Raises:
        ValueError: `what`, the first line of the library's words, and `allowed`.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"{what} without a library that is not there: {_first_line(error)}; install it, or "
            f"{allowed}"
        ) from error
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what}: {_first_line(error)}; {allowed}") from error


def _first_line(error: Exception) -> str:
    """Return the first line of an error that says something: some libraries begin with a blank."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")
