"""A disk that is full, and a limit of file sizes, at a worker of a sweep: one message for each cell
that it makes, nothing half-written, and the same command goes on when there is room.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.sweeps import end, half_written, processes, start, wait_for
from tests.workspace import Workspace

pytestmark = pytest.mark.services
ROOM = 48 << 10  # bytes: enough for the record of a sweep, too few for a set
NAMED = ("--name", "full", "--workers", "2")


@pytest.fixture
def on_small_disk(shared_alone) -> Iterator[Workspace]:
    """The workspace with its `data/` on a disk of its own."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    data, aside = shared_alone.folder / "data", shared_alone.folder / "aside"
    data.rename(aside)
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "disk", data]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr}")
    try:
        shutil.copytree(aside, data, dirs_exist_ok=True)
        yield shared_alone
    finally:
        subprocess.run(["umount", data], check=True)


def fill(folder: Path) -> Path:
    """Leave `ROOM` bytes on the disk of a folder, and return what fills it."""
    filler = folder / ".filler"
    filler.write_bytes(bytes(shutil.disk_usage(folder).free - ROOM))
    return filler


def failed(output: str) -> list[str]:
    """Return what a sweep said of the cells that failed."""
    return [line for line in output.splitlines() if line.startswith("failed: ")]


def test_a_full_disk_fails_each_cell_with_one_message(made, on_small_disk):
    filler = fill(on_small_disk.folder / "data")
    output = end(start(on_small_disk, *NAMED), 2)
    filler.unlink()
    assert len(failed(output)) == 2 and "Traceback" not in output
    for line in failed(output):
        assert "No space left on device" in line and "bytes are free at" in line
    assert half_written(on_small_disk) == [] and not processes(on_small_disk)
    end(start(on_small_disk, *NAMED))
    assert on_small_disk.digests() == made.digests()


def test_a_worker_that_can_write_no_set_fails_its_cell_alone(made, shared_alone):
    sweep = start(shared_alone, *NAMED)
    wait_for(lambda: psutil.Process(sweep.pid).children(), "no worker began")
    (worker,) = psutil.Process(sweep.pid).children()  # the first, which plans
    worker.rlimit(psutil.RLIMIT_FSIZE, (ROOM, ROOM))
    output = end(sweep, 2)
    (line,) = failed(output)
    assert "File too large" in line and "the limit of this user" in line
    assert "error: 1 of 2 cells failed" in output and "best: bi_trajectory-4" in output
    assert half_written(shared_alone) == [] and not processes(shared_alone)
    end(start(shared_alone, *NAMED))
    assert shared_alone.digests() == made.digests()
