"""What a sweep has on disk, `data/sweeps/<profile>/<name>/sweep.json`: what it was told, who runs
it, and how its cells stand.

The record says nothing about what is made: the keys of artifacts decide that. It lets `sweep
status | cancel | resume` find a sweep by name, and a search go on with the cells that it asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from flows.services.session import Owner
from tasks.core.foundations.durable import write_text
from tasks.core.foundations.names import check_name, hint
from tasks.reporting.leaderboard import Row
from tasks.stages import DATA

SWEEPS = DATA / "sweeps"
FILE, LOCK = "sweep.json", "lock"
RUNNING, FINISHED, INTERRUPTED = "running", "finished", "interrupted"


@dataclass
class Record:
    """One sweep.

    Attributes:
        words: keyword arguments of its flow; the same go on with it.
        owner: the process that runs it, or the last that did.
        state: `RUNNING`, `FINISHED` or `INTERRUPTED`.
        run: id of its flow run, where Prefect records it.
        former: the same of an earlier process that did not end it.
        asked: of a search, {settings, below} of each cell in the order in which it was asked for.
    """

    profile: str
    name: str
    words: dict[str, Any]
    owner: dict[str, Any] = field(default_factory=dict)
    state: str = RUNNING
    run: str | None = None
    former: str | None = None
    rows: list[Row] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return SWEEPS / self.profile / self.name

    @property
    def is_alive(self) -> bool:
        """Whether its process still runs."""
        return bool(self.owner) and Owner(**self.owner).is_alive

    def save(self) -> None:
        """Write it; a kill at any moment leaves the old or the new one."""
        write_text(self.folder / FILE, json.dumps(asdict(self), indent=1) + "\n")


@contextlib.contextmanager
def running(profile: str, name: str, words: dict[str, Any]) -> Iterator[Record]:
    """Give the record of a sweep that this process runs; at the end it says how it ended.

    Raises:
        ValueError: the name is unfit for a folder, or another process runs the sweep.
    """
    check_name(name, "sweep", "--name")
    record = Record(profile, name, words)
    is_new = not record.folder.exists()
    record.folder.mkdir(parents=True, exist_ok=True)
    lock, is_refused = filelock.FileLock(record.folder / LOCK), False
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        held = read(profile, name)
        raise ValueError(
            f"the sweep {name} of {profile} runs already, as process {held.owner.get('pid')}; "
            "allowed is one at a time; wait for it, choose another --name, or end it by "
            f"`vl-distillery sweep cancel {name}`"
        ) from error
    try:
        with contextlib.suppress(FileNotFoundError):
            before = read(profile, name)
            # Cells that were asked for belong to the space that they were asked in
            record.asked = before.asked if before.words == words else []
            record.former = before.run if before.state == RUNNING else None
        record.owner, record.run = asdict(Owner.of(os.getpid())), _flow_run()
        record.save()
        try:
            yield record
        except BaseException as error:
            record.state = INTERRUPTED
            is_refused = is_new and not record.rows and isinstance(error, ValueError | OSError)
            raise
        else:
            record.state = FINISHED
        finally:
            record.save()
    finally:
        lock.release()
        # Nothing was begun, so there is nothing to go on with
        if is_refused:
            shutil.rmtree(record.folder)


def _flow_run() -> str | None:
    """Return the id of the flow run that this process is in."""
    context = sys.modules.get("prefect.context")
    found = None if context is None else context.FlowRunContext.get()
    return None if found is None else str(found.flow_run.id)


def read(profile: str, name: str) -> Record:
    """Return the record of a sweep.

    Raises:
        FileNotFoundError: there is none of that name.
        ValueError: its file is damaged.
    """
    path = SWEEPS / profile / name / FILE
    known = [record.parent.name for record in sorted(SWEEPS.glob(f"{profile}/*/{FILE}"))]
    if name not in known:
        raise FileNotFoundError(
            f"no sweep {name!r}{hint(name, known)} of {profile} in {SWEEPS}; there are: "
            f"{', '.join(known) or 'none'}; start one by `vl-distillery distill_sweep --name "
            f"{name}`"
        )
    try:
        tree = json.loads(path.read_text())
        return Record(**{**tree, "rows": [Row(**row) for row in tree["rows"]]})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, and run the sweep's command again"
        ) from error


def names(profile: str) -> list[str]:
    """Return the names of all sweeps of a profile."""
    return [path.parent.name for path in sorted(SWEEPS.glob(f"{profile}/*/{FILE}"))]
