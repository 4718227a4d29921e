"""A run of three stages again and again in one folder, for `test_two_runs.py`: its content follows
from a seed, so that every artifact can be checked against its key.

`python -m tests.faults.runs_in_one_folder SEED SECONDS`; it begins when it reads a line, writes how
many results were made, found and stopped, and ends with 1 where one is wrong.
"""

from __future__ import annotations

import collections
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tasks.stages import STAGES
from tasks.store import caching
from tasks.store.artifacts import Key, Ref

Build = Callable[[Path], dict[str, object]]
NAMES = ("a", "b", "c")
PAUSE_SECONDS = 0.02


def content(seed: int, name: str) -> bytes:
    """What a prepared file of a run holds."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest() * 4000


class Run:
    """The stages of one seed; they pause between their files."""

    def __init__(self, seed: int) -> None:
        self.seed, self.draw = seed, random.Random(seed)
        self.counts = collections.Counter[str]()
        self.was_read: list[bytes] = []

    def pause(self) -> None:
        time.sleep(self.draw.random() * PAUSE_SECONDS)

    def once(self) -> None:
        """Run all stages; a run that is stopped begins again later, as users do."""
        try:
            prepared = self.obtain("prepared", {}, self.prepare, [])
            expected = [content(self.seed, name) for name in NAMES]
            expert = self.obtain(
                "experts", {"prepared": prepared}, lambda work: self.read(work, prepared), expected
            )
            self.obtain(
                "scores",
                {"prepared": prepared, "expert": expert},
                lambda work: self.read(work, expert, prepared),
                2 * expected,
            )
        except (ValueError, OSError) as error:
            self.counts["stopped" if "run again" in str(error) else repr(error)] += 1

    def obtain(self, name: str, inputs: dict[str, Ref], build: Build, expected: list[bytes]) -> Ref:
        """Obtain an artifact, and count it as wrong where it was made from other content."""
        self.was_read = []
        digests = {part: ref.digest for part, ref in inputs.items()}
        own = {} if inputs else {"seed": self.seed}
        key = Key("prepare_data", own, digests, name)
        ref = caching.obtain(Path("data") / name / "a", key, build)
        self.counts["found" if ref.is_cached else "made"] += 1
        self.counts["wrong"] += not ref.is_cached and self.was_read != expected
        return ref

    def prepare(self, work: Path) -> dict[str, object]:
        for name in NAMES:
            (work / name).write_bytes(content(self.seed, name))
            self.pause()
        return {}

    def read(self, work: Path, *refs: Ref) -> dict[str, object]:
        """Copy the inputs, file by file."""
        for ref in refs:
            for name in NAMES:
                self.was_read.append((ref.folder / name).read_bytes())
                (work / name).write_bytes(self.was_read[-1])
                self.pause()
        return {}


def main() -> None:
    """Run until the time is over."""
    run, seconds = Run(int(sys.argv[1])), float(sys.argv[2])
    STAGES["prepare_data"].import_libraries()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run.pause()
        run.once()
    sys.stdout.write(json.dumps(run.counts) + "\n")
    sys.exit(1 if run.counts["wrong"] else 0)


if __name__ == "__main__":
    main()
