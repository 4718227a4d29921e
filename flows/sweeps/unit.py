"""sweep-unit: one unit of a sweep as a flow run of its own, on a worker of a pool.

It tells its parent through Prefect's server that it lives, and its answer (signs.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from flows.runner import flow
from flows.services import session
from flows.sweeps import signs


@flow("sweep-unit")
def sweep_unit(request: dict[str, Any], settings: Sequence[str] = ()) -> None:
    """Do what a sweep asks for.

    Args:
        settings: those of the request; they may name the store that artifacts travel through.
        request: what is to be made, see flows/sweeps/work.py.

    Raises:
        ValueError: the unit failed; the reason is in its answer too.
    """
    own = UUID(os.environ[session.WORKER_RUN])
    with signs.beating(own):
        from flows.sweeps.worker import answer_to

        answer = answer_to(request)
    signs.tell(own, answer)
    if "reason" in answer:
        raise ValueError(answer["reason"])
