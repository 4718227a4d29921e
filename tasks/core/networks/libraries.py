"""Turns the errors of the libraries that networks come from into one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def said(what: str, allowed: str) -> Iterator[None]:
    """Raise a ValueError in place of any error that a library raises inside.

    Errors about missing files and about memory pass as they are: another choice would not heal
    them.

    Args:
        what: what the library cannot do with the user's choice; the message begins with it.
        allowed: what is allowed, and where to change it; the message ends with it.

    Raises:
        ValueError: `what`, the first line of the library's message, and `allowed`.
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
    # The libraries raise errors of any type for a name or an argument they do not know
    except Exception as error:
        raise ValueError(f"{what}: {_first_line(error)}; {allowed}") from error


def _first_line(error: Exception) -> str:
    """Return the first line that is not blank: the messages of some libraries begin with one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")
