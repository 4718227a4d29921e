"""MLflow's server ends in the middle of a sweep: the sweep ends as usual, and what was not told is
told later, once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.sweeps import end, num_done, start, wait_for
from tests.faults.tracked import WITHOUT, Server, server
from tests.workspace import Workspace

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("mlflow")) as found:
        found.start()
        yield found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_goes_on_without_the_server_of_mlflow_and_each_cell_is_told_once(
    made, shared_alone, mlflow, number
):
    name = f"told-{number:d}"
    told = {"MLFLOW_TRACKING_URI": mlflow.uri}
    sweep = start(shared_alone, "--name", name, **told)
    wait_for(lambda: num_done(shared_alone, name) or sweep.poll() is not None, "no cell", 300)
    mlflow.signal(number)
    output = end(sweep)
    assert "2 of 2: bi_trajectory-4" in output and shared_alone.digests() == made.digests()
    log = shared_alone.folder / f"data/sweeps/toy/{name}/worker_0.log"
    assert log.read_text().count(WITHOUT) == 1 and len(waiting(shared_alone)) == 1
    mlflow.start()
    done = shared_alone.flow("distill_sweep", "--name", name, **told)
    assert "distill_sweep: 0 made" in done.stdout and waiting(shared_alone) == []
    check(mlflow, f"toy sweep {name}")


def waiting(workspace: Workspace) -> list[Path]:
    """Return what MLflow has still to hear."""
    return list(workspace.folder.glob(".mlflow/spool/*/*/"))


def check(mlflow: Server, sweep: str) -> None:
    """Assert that MLflow has a sweep once, and each of its cells once and whole."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(mlflow.uri)
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == sweep]
    of_sweep = {"mlflow.parentRunId": parent.info.run_id}
    nested = [run for run in runs if of_sweep.items() <= run.data.tags.items()]
    names = sorted(run.info.run_name for run in nested)
    assert names == [f"bi_trajectory-4 lr_img={lr}" for lr in ("0.01", "0.02")]
    recalls = []
    for run in nested:
        history = client.get_metric_history(run.info.run_id, "test/mean_recall")
        assert len(history) == 1 and run.info.status == "FINISHED"
        recalls.append(history[0].value)
    assert parent.data.metrics["test/best_mean_recall"] == max(recalls)
