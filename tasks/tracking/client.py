"""Where MLflow is, and how a record is written to it: one experiment per dataset, a parent run per
invocation, a nested run per method and size.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.evaluation.statistics import mean
from tasks.store import urls
from tasks.store.artifacts import canonical_digest
from tasks.tracking import database
from tasks.tracking.records import Input, Part, Record, Row, Run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

STORE = Path(".mlflow")
URI = "MLFLOW_TRACKING_URI"
MAX_METRICS, MAX_PARAMS = 1000, 100  # of one request
MAX_RUNS = 50_000  # of one search
# Some versions of MLflow choose their page by this tag of an experiment, 3.17 by `TRAINING`
KIND, OURS = "mlflow.experimentKind", "custom_model_development"
TRAINING = "workflowType=machine_learning"  # in an address: MLflow 3.17's own switch between pages
CONTEXT = "mlflow.data.context"  # of a dataset of a run
PARENT, SET_KIND, MEAN = "mlflow.parentRunId", "set_kind", "test/mean_recall"
MADE, CHOSEN = "distilled", "coreset"  # kinds of sets that a parent run is summed up by


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI when it is set, otherwise the sqlite database in `.mlflow/`."""
    return os.environ.get(URI) or f"sqlite:///{STORE.resolve()}/mlflow.db"


def address() -> str:
    """Return where MLflow is, without what may be secret in it: user, password and query."""
    return urls.shown(tracking_uri())


def server() -> str:
    """Return a name for where MLflow is, of letters and digits."""
    return canonical_digest(address())[:16] if os.environ.get(URI) else "local"


def prepare() -> float:
    """Import MLflow (4 s), make or mend its local database, and return for how many seconds to wait
    for it.

    Raises:
        ValueError: the folder cannot hold a database that MLflow opens.
    """
    from mlflow import environment_variables as settings
    from mlflow.tracking import MlflowClient  # noqa: F401

    if not settings.MLFLOW_LOGGING_LEVEL.is_set():
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # errors reach us, and are said once
    settings.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # it may have a password
    check_folder()
    if file := database.file_of(tracking_uri()):
        database.ensure(file, STORE)
    return 3.0 * settings.MLFLOW_HTTP_REQUEST_TIMEOUT.get()


def check_folder() -> None:
    """Refuse a folder in which MLflow opens no database.

    Raises:
        ValueError: its path has ? or % with two hex digits, and no other address is set.
    """
    place = str(STORE.resolve())
    if not os.environ.get(URI) and ("?" in place or urllib.parse.unquote(place) != place):
        raise ValueError(
            f"rename the folder, or set {URI}: MLflow opens no database where the path holds "
            f"? or % with two hex digits, got {place}"
        )


def connect() -> MlflowClient:
    """Return a client of MLflow, unless it cannot use the address."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri())


def page_of(run: str) -> str | None:
    """Return the address of a run's page, where a server stands.

    Args:
        run: what `Tracker.tell` returns.
    """
    experiment, _, run_id = run.partition("/")
    return _page(f"{experiment}/runs/{run_id}?{TRAINING}") if run_id else None


def table_of(run: str, view: str) -> str | None:
    """Return the address of a saved view of the experiment of a run, where a server stands."""
    experiment, _, run_id = run.partition("/")
    asked = f"viewStateShareKey={urllib.parse.quote(view)}"
    return _page(f"{experiment}/runs?{TRAINING}&{asked}") if run_id else None


def _page(place: str) -> str | None:
    if not tracking_uri().startswith(("http://", "https://")):
        return None
    return f"{address().rstrip('/')}/#/experiments/{place}"


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answers that it will never take a record, as with a forbidden name."""
    return getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"


def reason(error: BaseException) -> str:
    """Return what is at the bottom of an error, in one line without secrets."""
    return urls.reason(error, tracking_uri())


class Tracker:
    """Writes records to the experiment of one dataset."""

    def __init__(self, dataset: str) -> None:
        self.client = connect()
        found = self.client.get_experiment_by_name(dataset)
        self.tags: dict[str, str] = {} if found is None else dict(found.tags)
        if found is None:
            # A server has a place of its own for files
            near = (STORE / "artifacts").resolve().as_uri()
            place = None if tracking_uri().startswith("http") else near
            self.experiment_id = self.client.create_experiment(dataset, place, {KIND: OURS})
            return
        if found.lifecycle_stage != "active":
            raise ValueError(
                f"the experiment {dataset} is deleted: restore it, or remove it for good"
            )
        self.experiment_id = found.experiment_id
        if KIND not in self.tags:
            self.client.set_experiment_tag(self.experiment_id, KIND, OURS)

    def tell(self, record: Record, folder: Path) -> str:
        """Write a record with the files in `folder`, unless MLflow has it.

        What is there already stays: an earlier try, wherever it ended, is made whole.

        Returns:
            `<experiment>/<run>` of its last nested run, or of the parent where it has none.
        """
        last = record.parts[-1]
        child = next((part.child for part in reversed(record.parts) if part.child), None)
        found = next(iter(self._find(f"tags.`{last.tag}` = '{last.digest}'")), None)
        if found is None:
            found = self._write(record, folder)
        if child and not last.child:
            found = self._named(child, found)[0]
        return f"{self.experiment_id}/{found.info.run_id}"

    def _write(self, record: Record, folder: Path) -> Any:
        """Write all parts, and return the run of the last one."""
        for key, value in record.views.items():
            if key not in self.tags:
                self.client.set_experiment_tag(self.experiment_id, key, value)
        tags = {"invocation": record.invocation, "level": "pipeline"}
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
        parent = self._open(self._find(query), record.parent, tags, record.time)
        for part in record.parts:
            run = parent
            if part.child:
                above = {PARENT: parent.info.run_id}
                known = self._named(part.child, parent)
                run = self._open(known, part.child, above, record.time)
            else:
                self._summarise(parent, record.time)
            if run.data.tags.get(part.tag) != part.digest:
                self._log(run.info.run_id, part, record.time, folder)
        # A parent with a part of its own is ended with that part
        if run is not parent:
            self._end(parent.info.run_id, record.time)
        return run

    def _open(self, earlier: Sequence[Any], run: Run, tags: dict[str, str], time: int) -> Any:
        """Return the first of the runs that are there, or a new one, with all its parameters and
        inputs.
        """
        from mlflow.entities import Param

        # A record is told when the work is over: its start lies before
        begun = time - round(1000 * run.seconds)
        # A run that an earlier try created is found by its name, and gets only what it lacks
        found = next(iter(earlier), None) or self.client.create_run(
            self.experiment_id, begun, {**run.tags, **tags}, run.name
        )
        known, run_id = found.data.params, found.info.run_id
        # MLflow refuses another value for a parameter that it has
        fresh = [Param(key, value) for key, value in run.params.items() if key not in known]
        for batch in _batches(fresh, MAX_PARAMS):
            self.client.log_batch(run_id, params=batch)
        inputs = [_input(one) for one in run.inputs]
        if not found.inputs or len(found.inputs.dataset_inputs) < len(inputs):
            self.client.log_inputs(run_id, inputs)
        return found

    def _log(self, run_id: str, part: Part, time: int, folder: Path) -> None:
        """Log metrics and files of a part, then set its tag, which says that the run has them."""
        self._log_metrics(run_id, part.metrics, time)
        for name in part.files:
            self.client.log_artifact(run_id, str(folder / name))
        self._end(run_id, time)
        self.client.set_tag(run_id, part.tag, part.digest)

    def _end(self, run_id: str, time: int) -> None:
        self.client.set_terminated(run_id, end_time=time)

    def _summarise(self, parent: Any, time: int) -> None:
        """Give the parent run the best and the mean test recall of its distilled sets; of its
        coresets where it has no others. The step is their number.
        """
        nested = self._find(_below(parent))
        for kind in (MADE, CHOSEN):
            scores = {
                run.info.run_name: run.data.metrics[MEAN]
                for run in nested
                if run.data.tags.get(SET_KIND) == kind and MEAN in run.data.metrics
            }
            if scores:
                break
        else:
            return
        best = max(scores, key=lambda name: scores[name])
        values = {"test/best_mean_recall": scores[best], MEAN: mean(scores.values())}
        if parent.data.metrics != values:
            self._log_metrics(parent.info.run_id, [(len(scores), values)], time)
        self.client.set_tag(parent.info.run_id, "best_set", best)

    def _log_metrics(self, run_id: str, rows: Sequence[Row], time: int) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, time, step) for step, values in rows for key, value in values.items()
        ]
        for batch in _batches(metrics, MAX_METRICS):
            self.client.log_batch(run_id, metrics=batch)

    def _find(self, query: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment_id], query, max_results=MAX_RUNS))

    def _named(self, child: Run, parent: Any) -> list[Any]:
        """Return the runs below `parent` that have the name of a child."""
        # A text in MLflow's queries can hold no quote; in a pattern `_` stands for any sign
        pattern = child.name.replace("'", "_")
        found = self._find(f"{_below(parent)} and attributes.run_name LIKE '{pattern}'")
        return [run for run in found if run.info.run_name == child.name]


def _below(parent: Any) -> str:
    return f"tags.`{PARENT}` = '{parent.info.run_id}'"


def _input(one: Input) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag(CONTEXT, one.context)] if one.context else []
    profile = json.dumps(one.profile) if one.profile else None
    # MLflow's field of a digest takes 36 characters
    data = Dataset(one.name, one.digest[:36], "local", one.source, profile=profile)
    return DatasetInput(data, tags)


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Yield `items` in parts of at most `size`."""
    for first in range(0, len(items), size):
        yield list(items[first : first + size])
