"""A process that makes units for flows/sweeps/local.py: `python -m flows.sweeps.worker`.

Requests come as lines of its standard input, and answers go as lines to its standard output. The
input is a pipe that the parent holds open. When it closes, the parent is gone, and this process
ends at once with all that it started. What it was making goes on from its checkpoint another
time.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any

from flows.services import session


def main() -> None:
    """Answer requests until the parent is gone."""
    # Whatever a library prints goes into the log, and is no answer
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    session.switch_offline()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("vl_distillery").setLevel(logging.INFO)
    while True:
        request = json.loads(requests.get())
        answers.write(json.dumps(answer_to(request)) + "\n")
        answers.flush()


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os.killpg(0, signal.SIGKILL)


def answer_to(request: dict[str, Any]) -> dict[str, Any]:
    """Return {value}, or {reason} of a failure; a failure of ours leaves its traceback in the
    log.
    """
    from flows.sweeps.work import perform  # imports PyTorch

    try:
        return {"value": perform.fn(request["settings"], request)}
    except (ValueError, OSError) as error:
        return {"reason": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"reason": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
