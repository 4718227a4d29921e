"""The only importer of mlflow: one experiment per dataset, a parent run per pipeline, a nested run
per method and size.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

STORE = Path(".mlflow")
MAX_METRICS, MAX_PARAMS = 1000, 100  # of one request


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI when it is set, otherwise the sqlite database in `.mlflow/`."""
    STORE.mkdir(exist_ok=True)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE.resolve()}/mlflow.db"


def is_remembered(dataset: str, tag: str, digest: str) -> bool:
    """Whether this store is known to hold what the digest names: the answer of MLflow, kept so that
    asking needs no import (4 s).
    """
    return _memo(dataset, tag, digest).is_file()


def remember(dataset: str, tag: str, digest: str) -> None:
    """Keep that a run with this tag is in the store. The note lies beside the store, never in the
    artifact, and goes with it.
    """
    note = _memo(dataset, tag, digest)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def _memo(dataset: str, tag: str, digest: str) -> Path:
    named = "\n".join((tracking_uri(), dataset, tag, digest))
    return STORE / "logged" / hashlib.sha256(named.encode()).hexdigest()


class Tracker:
    """Writes runs of one pipeline invocation; `invocation` ties the processes of one `dvc repro` to
    one parent run.
    """

    def __init__(self, dataset: str, invocation: str) -> None:
        from mlflow.tracking import MlflowClient

        self.invocation = invocation
        STORE.mkdir(exist_ok=True)
        # Two first users at once would both migrate the database
        with filelock.FileLock(STORE / "setup.lock"):
            self.client = MlflowClient(tracking_uri())
            experiment = self.client.get_experiment_by_name(dataset)
            if experiment:
                self.experiment_id = experiment.experiment_id
            else:
                location = (STORE / "artifacts").resolve().as_uri()
                self.experiment_id = self.client.create_experiment(dataset, location)

    def parent(self, params: dict[str, Any], tags: dict[str, str]) -> str:
        """Return the id of this invocation's parent run, created on first use with flat `params`
        and `tags`.
        """
        query = f"tags.invocation = '{self.invocation}' and tags.level = 'pipeline'"
        if found := self._find(query):
            return found
        name = f"{tags.get('preset', 'pipeline')} {self.invocation[:8]}"
        run_id = self._create(name, {"level": "pipeline", **tags})
        self.log_params(run_id, params)
        return run_id

    def child(self, parent: str, name: str, tags: dict[str, str]) -> str:
        """Return the id of the nested run `name` (for example `bi_trajectory-20`) under
        `parent`.
        """
        query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.run_name = '{name}'"
        return self._find(query) or self._create(name, {"mlflow.parentRunId": parent, **tags})

    def has(self, tag: str, digest: str) -> bool:
        """Whether a run of this experiment carries the tag: what the digest names was logged to its
        end.
        """
        return self._find(f"tags.`{tag}` = '{digest}'") is not None

    def mark(self, run_id: str, tag: str, digest: str) -> None:
        """Set the tag that `has` looks for, after the last value was logged."""
        self.client.set_tag(run_id, tag, digest)

    def is_marked(self, run_id: str, tag: str, digest: str) -> bool:
        """Whether this run carries the tag."""
        return bool(self.client.get_run(run_id).data.tags.get(tag) == digest)

    def log_params(self, run_id: str, params: dict[str, Any]) -> None:
        """Log flat parameters, each value as text of at most 500 characters, once."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        fresh = [Param(key, str(value)[:500]) for key, value in params.items() if key not in known]
        for batch in _batches(fresh, MAX_PARAMS):
            self.client.log_batch(run_id, params=batch)

    def log_history(self, run_id: str, rows: Iterable[tuple[int, dict[str, float]]]) -> None:
        """Log metrics over steps in batches; values must be finite."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = []
        for step, values in rows:
            metrics += [Metric(key, value, now, step) for key, value in values.items()]
        finite = [metric for metric in metrics if math.isfinite(metric.value)]
        for batch in _batches(finite, MAX_METRICS):
            self.client.log_batch(run_id, metrics=batch)

    def log_inputs(self, run_id: str, name: str, digest: str, source: str) -> None:
        """Record a dataset input: its name and the first 36 characters of its digest."""
        from mlflow.entities import Dataset, DatasetInput

        dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
        self.client.log_inputs(run_id, [DatasetInput(dataset)])

    def log_file(self, run_id: str, path: Path) -> None:
        """Attach a file to a run."""
        self.client.log_artifact(run_id, str(path))

    def finish(self, run_id: str) -> None:
        """Mark a run as ended."""
        self.client.set_terminated(run_id)

    def _create(self, name: str, tags: dict[str, str]) -> str:
        tags = {"invocation": self.invocation, **tags}
        run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        return str(run.info.run_id)

    def _find(self, query: str) -> str | None:
        runs = self.client.search_runs([self.experiment_id], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Yield `items` in parts of at most `size`."""
    for first in range(0, len(items), size):
        yield list(items[first : first + size])


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested parameter tree as {"section.key": value}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
