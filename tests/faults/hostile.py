"""Hostile and odd inputs: how a case is said, and how it runs, in a process of its own with limits.

A case is prepared by `prepare_data` as a stage does it, in a folder of its own. The process that
prepares is forked from one that has the libraries imported. It may use 30 s of a processor, and
2 GB more than it was born with; what it used is measured. Who waits is killed after a minute.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests import forked
from tests.workspace import ROOT

SECONDS, NUM_BYTES = 30, 2 << 30
LIBRARIES = ("tests.faults.hostile_libraries",)
SIZE = 8


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: what is odd about it.
        make: writes it into an empty folder `raw`, and returns the settings that read it.
        refused: words that its one message holds; without words it is accepted.
        accepted: what `Outcome.facts` holds then.
        is_start: the start of experts is made too, from weights that `make` wrote.
    """

    name: str
    make: Callable[[Path], list[str]]
    refused: tuple[str, ...] = ()
    accepted: dict[str, Any] = field(default_factory=dict)
    is_start: bool = False


@dataclass
class Outcome:
    """What a run came to: its message, of an expected kind or not, or its facts; and the cost."""

    error: str = ""
    is_expected: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    num_bytes: int = 0


def reader(name: str, /, **options: object) -> list[str]:
    """Return the settings that name a reader of the folder `raw`."""
    return [
        f"prepare_data.dataset={name}",
        f"prepare_data.options={json.dumps({'path': 'raw', **options})}",
    ]


def run(case: Case, folder: Path) -> Outcome:
    """Prepare a case in a process of its own."""
    (folder / "raw").mkdir()
    settings = case.make(folder / "raw")
    forked.preload(LIBRARIES)
    child = forked.CONTEXT.Process(target=prepare, args=(folder, settings, case.is_start))
    child.start()
    child.join(2 * SECONDS)
    if child.is_alive():
        child.kill()
    child.join()
    result = folder / "result.json"
    assert result.is_file(), f"{case.name}: killed by {child.exitcode} by the limits"
    return Outcome(**json.loads(result.read_text()))


def check(case: Case, folder: Path) -> None:
    """Run a case and compare it with what is expected of it."""
    found = run(case, folder)
    assert found.seconds < SECONDS and found.num_bytes < NUM_BYTES, (found.seconds, found.num_bytes)
    left = sorted(str(path.relative_to(folder)) for path in folder.glob("data/**/*"))
    left = [name for name in left if path_is_made(name, case.is_start)]
    if case.refused:
        assert found.is_expected, found
        missing = [words for words in case.refused if words not in found.error]
        assert not missing, (missing, found.error)
        assert len(found.error) < 4000 and found.error.replace("\n", " ").isprintable()
        assert not left
    else:
        assert not found.error, found.error
        expected = dict(case.accepted)
        colours = np.array(expected.pop("colours", found.facts["colours"]))
        # JPEG and other colour spaces round.
        assert np.abs(colours - found.facts["colours"]).max() <= 4, found.facts["colours"]
        assert {name: found.facts[name] for name in expected} == expected
        assert not [name for name in left if ".work" in name]


def path_is_made(name: str, is_start: bool) -> bool:
    """Whether a path below data/ is more than a lock, a note, an empty parent, or what the start
    was to be made from.
    """
    kept = (".locks", ".digests", "data/prepared/") if is_start else (".locks", ".digests")
    return Path(name).suffix != "" and not any(one in name for one in kept)


def prepare(folder: Path, settings: list[str], is_start: bool) -> None:
    """Prepare in `folder`, and write what came out; the body of the process."""
    from tasks.prepare_data import prepare_data
    from tasks.settings import params, steps
    from tasks.train_experts import build_start

    os.chdir(folder)
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + NUM_BYTES, own + NUM_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    began, outcome = time.process_time(), Outcome()
    try:
        loaded = params.load(
            ["budgets=[2]", f"prepare_data.image_size={SIZE}", *settings], path=ROOT / "params.yaml"
        )
        ref = prepare_data.fn(steps.preparation(loaded))
        outcome.facts = facts(Path(ref.path))
        if is_start:
            build_start.fn(steps.start(loaded), ref)
    except Exception as error:
        outcome.error, outcome.is_expected = str(error), isinstance(error, ValueError | OSError)
    # Other programs on the machine do not lengthen the time of the processor
    outcome.seconds = time.process_time() - began
    outcome.num_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path("result.json").write_text(json.dumps(vars(outcome)))


def facts(prepared: Path) -> dict[str, Any]:
    """Return what a prepared dataset holds, for comparison."""
    import pandas as pd

    from tasks.core.data.preparation import CAPTIONS, IMAGES, NAMES
    from tasks.core.foundations.tensor_files import map_tensor

    names, captions = pd.read_parquet(prepared / NAMES), pd.read_parquet(prepared / CAPTIONS)
    train = names["split"] == "train"
    images = map_tensor(prepared / IMAGES, "images")
    texts = captions["text"][captions["image_idx"] < train.sum()]
    left_out = json.loads((prepared / "manifest.json").read_text())["facts"]["left_out"]
    return {
        "names": list(names["name"][train]),
        "captions": list(texts),
        "num_train": int(train.sum()),
        "num_captions": len(texts),
        "colours": [[int(part) for part in image.mean((0, 1)).round()] for image in images[train]],
        "left_out": {reason: tally["count"] for reason, tally in left_out.items()},
    }
