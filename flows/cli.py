"""One command line for all flows: `python -m flows.<stage> [--profile NAME] [--set
section.key=value] [--force]`.

`python -m flows.cli <stage>` is the same. Parameters are checked before anything is computed; what
a user can mend is one message and exit code 2, never a traceback.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.services import session

FLOWS = (
    "prepare_data",
    "embed_captions",
    "train_experts",
    "select_coresets",
    "distill",
    "evaluate",
    "report",
    "pipeline",
    "distill_sweep",
    "preset",
)
LOGGER = logging.getLogger("vl_distillery")
PLAN = "plan"
PRESET = "preset"
GRACE_SECONDS = 5.0
WITH_METHOD = ("select_coresets", "distill")


def main(name: str, argv: Sequence[str] | None = None) -> None:
    """Run the flow `name` with the command line and exit: 0 done, 1 a failure of ours, 2 a wrong
    input, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    guarded(lambda: _run(name, arguments))


def guarded(run: Callable[[], None]) -> None:
    """Run, and exit with one message where a user's input is wrong or Ctrl-C came."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        run()
    except (ValueError, OSError) as error:
        sys.exit(_say(error, 2))
    except KeyboardInterrupt as error:
        sys.exit(_say(error, 130))


def parser(name: str) -> argparse.ArgumentParser:
    """Return the command line of one flow."""
    line = argparse.ArgumentParser(prog=f"python -m flows.{name}", allow_abbrev=False)
    add_parameters(line)
    line.add_argument(
        "--force",
        action="store_true",
        help="compute again what this flow computes, even when it is there",
    )
    line.add_argument(
        "--accept-code",
        action="store_true",
        help="keep artifacts whose code alone has changed; their manifests record it",
    )
    if name in WITH_METHOD:
        line.add_argument("--method", help="this method only, instead of all that `methods` names")
    if name == "distill_sweep":
        line.add_argument(
            "--method", dest="methods", action="append", help="a method of the grid; repeatable"
        )
        line.add_argument(
            "--num-pairs",
            dest="budgets",
            action="append",
            type=int,
            help="a size of the grid; repeatable",
        )
    if name == PRESET:
        line.add_argument("preset", nargs="?", help="a table of `presets` in presets.yaml")
        line.add_argument(
            "--list", action="store_true", help="name the presets and their cells, and run nothing"
        )
    return line


def add_parameters(line: argparse.ArgumentParser) -> None:
    """Let a command line choose the profile and override values; `settings_of` reads what it was
    given.
    """
    line.add_argument("--profile", help="a profile of params.yaml, instead of the one named there")
    line.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one value",
    )


def settings_of(words: dict[str, Any]) -> list[str]:
    """Take the profile and the overrides out of a parsed command line, as one list of settings."""
    profile, settings = words.pop("profile"), words.pop("settings")
    return settings if profile is None else [f"profile={profile}", *settings]


def _run(name: str, argv: list[str]) -> None:
    session.begin()  # before anything is imported that takes seconds
    words = vars(parser(name).parse_args(argv))
    words["settings"] = settings_of(words)
    from tasks.settings import params

    if name == PRESET and words.pop("list"):
        presets = params.presets(words["settings"])
        width = max(map(len, presets))
        for preset, found in presets.items():
            print(f"{preset:{width}}  {found.title}: {', '.join(found.cells)}")
        return
    if name == PRESET:
        params.load_cells(words["preset"], words["settings"])
    else:
        params.load(words["settings"])
    run(name, words)


def run(name: str, words: dict[str, Any]) -> None:
    """Run a flow with its keyword arguments, and print how many artifacts were made."""
    LOGGER.setLevel(logging.INFO)
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    if session.API_URL in os.environ:
        quieten_tracebacks()
        session.connect()
    else:
        logging.basicConfig(format="%(message)s")
        if "DVC_STAGE" not in os.environ:
            LOGGER.info("not recorded in Prefect, since no server stands; `make ui` starts one")
    fresh, cached = flow(**words).count()
    print(f"{name}: {fresh} made, {cached} cached")


def quieten_tracebacks() -> None:
    """Let Prefect log an error that a user can mend as its message, without a traceback."""

    def shorten(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], ValueError | OSError):
            record.msg, record.args, record.exc_info = f"stopped: {record.exc_info[1]}", (), None
        return True

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(shorten)


def _interrupt(number: int, frame: object) -> None:
    """Let Prefect record the interruption; its server may be gone, so do not wait long."""
    timer = threading.Timer(GRACE_SECONDS, _give_up)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _give_up() -> None:
    os._exit(_say(KeyboardInterrupt(), 130))


def _say(error: BaseException, code: int) -> int:
    """Print an error as one message, with the file of an operating system's error."""
    text = str(error) or "interrupted; the same command goes on from the last checkpoint"
    where = getattr(error, "filename", None)
    print(
        f"error: {text if where is None or str(where) in text else f'{Path(where)}: {text}'}",
        file=sys.stderr,
    )
    return code


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in (*FLOWS, PLAN):
        sys.exit(
            f"usage: python -m flows.cli FLOW [options]; FLOW is one of {', '.join((*FLOWS, PLAN))}"
        )
    if sys.argv[1] == PLAN:
        importlib.import_module("flows.plan").main(sys.argv[2:])  # measures, and runs no flow
    else:
        main(sys.argv[1], sys.argv[2:])
