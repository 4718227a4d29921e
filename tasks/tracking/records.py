"""What MLflow is to hear, as data: a record is one logged unit, and lies in a file until MLflow has
it (spool.py).

A record holds all its values, so it stays true when the artifacts behind it change.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
Row = tuple[int, dict[str, float]]  # a step with its metrics


@dataclass(frozen=True)
class Invocation:
    """One command.

    Attributes:
        id: shared by the processes of one `dvc repro`.
        command: what was run, for the name of the parent run.
    """

    id: str
    command: str


@dataclass(frozen=True)
class Input:
    """A dataset that a run read.

    Attributes:
        profile: what MLflow shows of it beside its name, by words.
        context: what it is to the run.
    """

    name: str
    digest: str
    source: str
    profile: dict[str, str] = field(default_factory=dict)
    context: str = ""


@dataclass(frozen=True)
class Run:
    """A run of MLflow as it is created. Nested runs are found again by their names.

    Attributes:
        seconds: how long the work took; MLflow shows it as the duration of the run.
    """

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    inputs: list[Input]
    seconds: float = 0.0


@dataclass(frozen=True)
class Part:
    """What one run is told at once.

    Attributes:
        child: the nested run; None is the parent itself.
        tag, digest: set on the run once it has all of this part, which is then not told again.
        files: paths of files to attach, from the folder of the record.
    """

    child: Run | None
    tag: str
    digest: str
    metrics: list[Row] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """One logged unit: parts of one parent run and its nested runs.

    Attributes:
        dataset: the experiment.
        invocation: the parent run is found again by it.
        parts: the last one's tag says that MLflow has the whole record.
        views: tags of the experiment, set where it has none of that name (views.py).
        time: in ms since 1970. MLflow keeps equal metrics of one time once, so telling twice adds
            nothing.
    """

    dataset: str
    invocation: str
    parent: Run
    parts: list[Part]
    views: dict[str, str] = field(default_factory=dict)
    time: int = field(default_factory=lambda: int(time.time() * 1000))
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def read(path: Path) -> Record:
    """Return the record of a file.

    Raises:
        ValueError, KeyError, TypeError: it is damaged.
    """
    tree = json.loads(path.read_text())
    if tree["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version is {tree['format_version']}, not {FORMAT_VERSION}")
    parts = [
        Part(**{**part, "child": part["child"] and _run(part["child"])}) for part in tree["parts"]
    ]
    return Record(**{**tree, "parent": _run(tree["parent"]), "parts": parts})


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested parameter tree as {"section.key": text of at most 500 characters}."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)[:500]
    return flat


def _run(tree: dict[str, Any]) -> Run:
    return Run(**{**tree, "inputs": [Input(**one) for one in tree["inputs"]]})
