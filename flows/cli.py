"""One command line for all flows: `vl-distillery COMMAND`, see flows/command_line.py.

`python -m flows.cli COMMAND` and `python -m flows.COMMAND` are the same. Parameters are checked
before anything is computed. What a user can mend is one message and exit code 2, never a traceback.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flows import command_line
from flows.services import session
from tasks.store import disk

LOGGER = logging.getLogger("vl_distillery")
PRESET, STUDY = "preset", "study"
# Commands that are no flows: each has a `main` of its own
WITHOUT_FLOW = (
    "plan",
    "sweep",
    "fetch",
    "pretrain",
    "export",
    "import",
    "score",
    "demo",
    "ui",
)
LIGHT = ("distill_sweep",)  # flows that check their parameters without PyTorch
FAILED = "Finished in state Failed("  # how Prefect's line about a failed run begins
GRACE_SECONDS = 5.0  # for Prefect to record an interruption
# What Ctrl-C leaves
GOES_ON = "interrupted; the same command goes on from the last checkpoint"
BEGINS_AGAIN = "interrupted; nothing was made, and the same command begins again"


def main(name: str, argv: Sequence[str] | None = None) -> None:
    """Run the command `name` with the rest of the command line and exit, see `console`."""
    console([name, *(sys.argv[1:] if argv is None else argv)])


def console(arguments: Sequence[str] | None = None) -> None:
    """Run `vl-distillery` with its arguments and exit: 0 done, 1 a failure of ours, 2 a wrong
    input, 130 interrupted.
    """
    line = list(sys.argv[1:] if arguments is None else arguments)
    name, words = command_line.parse(line)
    if name not in WITHOUT_FLOW:
        guarded(lambda: _run(name, words))
        return
    try:
        found = importlib.import_module(f"flows.{name}")
    except KeyboardInterrupt:  # imports take seconds
        sys.exit(_say(BEGINS_AGAIN, 130))
    found.main(**words)


def guarded(run: Callable[[], None], *, interrupted: str = GOES_ON) -> None:
    """Run, and exit with one message where a user's input is wrong or Ctrl-C came.

    Args:
        interrupted: what is said after Ctrl-C.
    """
    signal.signal(signal.SIGINT, partial(_interrupt, interrupted))
    try:
        run()
    except ValueError as error:
        sys.exit(_say(str(error), 2))
    except OSError as error:
        sys.exit(_say(disk.in_words(error), 2))
    except KeyboardInterrupt:
        sys.exit(_say(interrupted, 130))


def _run(name: str, words: dict[str, Any]) -> None:
    # Before anything is imported that takes seconds: it ends this process with its `dvc`
    session.begin()
    if name in LIGHT:
        run(name, words)
        return
    from tasks import preflight  # PyTorch, which `--help` does not need
    from tasks.settings import params, studies

    if name == PRESET and words.pop("list"):
        presets = params.presets(words["settings"])
        width = max(map(len, presets))
        for preset, found in presets.items():
            print(f"{preset:{width}}  {found.title}: {', '.join(found.cells)}")
        return
    if name == STUDY and words.pop("list"):
        for study, title in studies.titles().items():
            print(f"{study}  {title}")
        return
    # Loaded for the check alone, before a server is asked or a flow begins
    if name == PRESET:
        params.load_cells(words["preset"], words["settings"])
    else:
        chosen = params.load(words["settings"])
        if name == STUDY:
            studies.load(words["study"], chosen)
        preflight.check_named_data(chosen, words["settings"])
    run(name, words)


def run(name: str, words: dict[str, Any]) -> None:
    """Run a flow with its keyword arguments, and print how many artifacts were made."""
    LOGGER.setLevel(logging.INFO)
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    recorded: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    # Prefect sets up logging itself where it records a run
    if session.API_URL in os.environ:
        quieten_tracebacks()
        recorded = session.connected(is_outlived=is_outlived(words))
    else:
        logging.basicConfig(format="%(message)s")
    with recorded:
        fresh, cached = flow(**words).count()
    print(f"{name}: {fresh} made, {cached} cached")


def is_outlived(words: dict[str, Any]) -> bool:
    """Whether a run goes on when its server goes.

    Units on a work pool of Prefect are runs of the server. Those on Ray are tasks of its cluster.
    """
    return words.get("pool") in (None, "ray")


def quieten_tracebacks() -> None:
    """Keep Prefect from logging an error that a user can mend: `guarded` prints its message once.

    Prefect's last line of a failed run keeps its beginning, without the message in parentheses.
    """

    def shorten(record: logging.LogRecord) -> bool:
        record.msg = record.msg.partition("(")[0] if FAILED in record.msg else record.msg
        return not (record.exc_info and isinstance(record.exc_info[1], ValueError | OSError))

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(shorten)


def _interrupt(interrupted: str, number: int, frame: object) -> None:
    """Let Prefect record the interruption, for `GRACE_SECONDS`: its server may be gone."""
    timer = threading.Timer(GRACE_SECONDS, _give_up, [interrupted])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _give_up(interrupted: str) -> None:
    # Not `sys.exit`, which waits for threads that wait for the server
    os._exit(_say(interrupted, 130))


def _say(text: str, code: int) -> int:
    """Print an error as one message, and return the exit code."""
    print(f"error: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    console()
