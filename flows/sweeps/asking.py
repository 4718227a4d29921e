"""Prefect's server, asked with patience: one that restarts is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0  # with a server that does not answer


def asked(ask: Callable[[], T]) -> T:
    """Return what the server answers.

    Raises:
        ConnectionError: it has not answered for `PATIENCE_SECONDS`.
        httpx.HTTPStatusError: it answered that the request is wrong.
    """
    import httpx

    limit = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
                raise
            if time.monotonic() > limit:
                raise ConnectionError(
                    f"the Prefect server does not answer: {error}; `vl-distillery sweep resume` "
                    "goes on with the sweep when it does"
                ) from error
            time.sleep(POLL_SECONDS)
