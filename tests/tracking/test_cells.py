"""A cell of a sweep in a real MLflow database: names, tags, its set as a dataset, samples of the
machine, and addresses where a server stands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from tasks.core.evaluation.metrics import NAMES
from tasks.core.foundations.file_names import CURVE, GALLERY, HISTORY, SCORE, SHEET
from tasks.core.training.pair_files import num_bytes, save_pairs
from tasks.core.training.pair_set import PairSet
from tasks.reporting.figures import LEARNED, PARTS
from tasks.settings import params
from tasks.settings.sets import SetName
from tasks.store import caching
from tasks.store.artifacts import Key, Ref
from tasks.tracking import cells, client, database, spool, views
from tasks.tracking.records import Part, Record, Run
from tests.workspace import ROOT

pytestmark = pytest.mark.services
SETTING = 'variant={distill.matching.lr_img: 0.5, methods.distillers: ["lors"], budgets: [20]}'
SAMPLES = [(step, {"system/cpu_utilization_percentage": float(step)}) for step in range(600)]
FURTHER = (
    "system_memory_usage_megabytes",
    "gpu_0_memory_usage_megabytes",
    "gpu_0_utilization_percentage",
)
SAMPLES[0][1].update({f"system/{name}": 1.0 for name in FURTHER})
VIEW = f"{views.TAG}sweep-toy-lr"
HALF = (0.5, 0.5, 0.5)
PAIRS = PairSet(torch.zeros(20, 3, 4, 4), torch.ones(20, 5), HALF, HALF)
NAME = 'lors-20 it\'s="50 %" lr_img=0.5'  # quotes, as values of settings may hold
SWEPT = {"distill.matching.lr_img": 0.5, "methods": "lors", "budgets": 20}


def artifact(folder: Path, content: dict[str, object]) -> Ref:
    def build(work: Path) -> dict[str, str]:
        for name, value in content.items():
            if isinstance(value, pd.DataFrame):
                value.to_parquet(work / name, index=False)
            elif isinstance(value, PairSet):
                save_pairs(work, value)
            else:
                (work / name).write_text(str(value))
        return {}

    return caching.obtain(folder, Key("distill", {"of": str(folder)}, {}, "code"), build)


@dataclass
class Made:
    """A cell with what its students scored."""

    chosen: params.Params
    cell: cells.Cell
    students: list[Ref]
    gallery: Ref

    def log(self, **beside: float | None) -> cells.Pages:
        scores = {name: 1.0 for name in (*cells.COMPARED, "seconds")}
        scores |= {"seconds": 90.0, "over_equal_bytes": None, **beside}
        return cells.log_cell(self.chosen, self.cell, self.students, self.gallery, scores)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("cells"))
        patch.delenv(client.URI, raising=False)
        database.ensure(Path(".mlflow/mlflow.db"), Path(".mlflow"))
        # Every column that a history may have
        history = pd.DataFrame({"iteration": range(600), "loss": 1.5})
        history.loc[0, ["loss_img", "loss_txt", *LEARNED, PARTS]] = 0.5
        distilled = artifact(
            Path("data/distilled/toy+1/lors/lors-20"), {HISTORY: history, "pairs": PAIRS}
        )
        score = {**dict.fromkeys(NAMES, 30.0), "val_mean_recall": 31.0, "chosen_epoch": 3}
        curve = pd.DataFrame({"epoch": range(50), "val_mean_recall": 1.0, "loss": 2.0})
        students = [
            artifact(Path(f"s{seed}"), {SCORE: json.dumps(score), CURVE: curve})
            for seed in range(2)
        ]
        gallery = artifact(Path("gallery"), {SHEET: "a sheet", GALLERY: "rows"})
        sweep = {"profile": "toy", "sweep": "lr", "cell": NAME}
        prepared = Ref("data/prepared/toy", "d" * 64)
        cell = cells.Cell(sweep, SWEPT, SetName("lors", 20), prepared, distilled, SAMPLES)
        chosen = params.load(["profile=toy", SETTING], path=ROOT / "params.yaml")
        yield Made(chosen, cell, students, gallery)


@pytest.fixture
def run(made):
    """The run of the cell, logged twice."""
    assert made.log() == made.log() == cells.Pages(None, None)  # a database has no pages
    tracker = client.Tracker("toy")
    found = tracker.client.search_runs([tracker.experiment_id], "tags.sweep = 'lr'")
    (own,) = [one for one in found if client.PARENT in one.data.tags]
    assert len(found) == 2
    return own


def test_a_cell_is_named_by_what_is_swept_and_tagged_by_its_full_names(made, run):
    assert run.info.run_name == NAME
    assert {key: run.data.tags[key] for key in SWEPT} == {
        "distill.matching.lr_img": "0.5",
        "methods": "lors",
        "budgets": "20",
    }
    assert run.data.params["distill.matching.lr_img"] == run.data.params["options.lr_img"] == "0.5"
    assert "preset" not in run.data.tags and run.data.tags["profile"] == "toy"
    parent = client.connect().get_run(run.data.tags[client.PARENT])
    assert parent.info.run_name == "toy sweep lr" and parent.data.tags["best_set"] in (
        run.info.run_name
    )
    assert parent.data.metrics == {"test/best_mean_recall": 30.0, client.MEAN: 30.0}


def test_it_took_as_long_as_its_set_and_its_students(run):
    assert run.info.end_time - run.info.start_time == 90_000


def test_its_set_is_a_dataset_with_its_bytes_and_its_whole_digest(made, run):
    distilled, prepared = (one.dataset for one in run.inputs.dataset_inputs)
    assert prepared.name == "toy" and distilled.name == "lors-20"
    told = json.loads(distilled.profile)
    assert told == {
        "num_bytes": str(num_bytes(PAIRS)),
        "num_pairs": "20",
        "sha256": made.cell.distilled.digest,
    }
    assert distilled.digest == told["sha256"][:36]
    assert json.loads(distilled.source) == {"uri": made.cell.distilled.path}
    tags = [{tag.key: tag.value for tag in one.tags} for one in run.inputs.dataset_inputs]
    assert [one[client.CONTEXT] for one in tags] == ["distilled", "prepared"]


def test_more_than_a_request_of_samples_is_logged_once_below_forty_keys(run):
    seen = client.connect()
    history = seen.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    assert [point.value for point in history] == [float(step) for step, _ in SAMPLES]
    assert len(seen.get_metric_history(run.info.run_id, "distill/loss")) == 600
    # The one that is left out could be there
    assert len(run.data.metrics) + 1 <= 40 and "test/over_equal_bytes" not in run.data.metrics


def test_a_cell_is_told_again_when_other_rows_say_more_of_it(made):
    other = {"profile": "toy", "sweep": "again", "cell": NAME}
    again = replace(made, cell=replace(made.cell, sweep=other))
    for ars in (None, 0.5, 0.5):
        again.log(ars=ars)
    tracker = client.Tracker("toy")
    found = tracker.client.search_runs([tracker.experiment_id], "tags.sweep = 'again'")
    told = [one.data.metrics.get("test/ars") for one in found if client.PARENT in one.data.tags]
    assert told == [0.5]


def test_where_a_server_stands_a_run_and_its_sweep_have_addresses(run, monkeypatch):
    place = f"{run.info.experiment_id}/{run.info.run_id}"
    key = spool.key_of("toy", cells.LAST, run.data.tags[cells.CELL])
    assert spool.Spool(client.STORE, client.server()).run_of(key) == place
    monkeypatch.setenv(client.URI, "http://me:geheim@127.0.0.1:5000/mlflow/")
    root = f"http://127.0.0.1:5000/mlflow/#/experiments/{run.info.experiment_id}/runs"
    training = "workflowType=machine_learning"
    assert client.page_of(place) == f"{root}/{run.info.run_id}?{training}"
    view = "viewStateShareKey=sweep-toy-lr"
    assert client.table_of(place, "sweep-toy-lr") == f"{root}?{training}&{view}"
    assert client.page_of("") is None and client.table_of("", "sweep-toy-lr") is None


def test_the_view_of_a_sweep_finds_its_cells_and_has_a_column_for_each_value(made, run):
    tracker = client.Tracker("toy")
    tag = tracker.tags[VIEW]
    state = json.loads(json.loads(tag)["state"])
    (found,) = tracker.client.search_runs([tracker.experiment_id], state["searchFilter"])
    assert found.info.run_id == run.info.run_id
    columns = [column.partition(".") for column in state["selectedColumns"]]
    params, metrics = (
        {name.strip("`") for kind, _, name in columns if kind == wanted}
        for wanted in ("params", "metrics")
    )
    assert params == set(SWEPT) and params <= set(run.data.params)
    assert metrics - {"test/over_equal_bytes"} <= set(run.data.metrics)
    # One that somebody has changed stays as it is
    tracker.client.set_experiment_tag(tracker.experiment_id, VIEW, "own")
    other = Record("toy", "other", Run("other", {}, {}, []), [Part(None, "a", "b")], {VIEW: tag})
    client.Tracker("toy").tell(other, Path())
    assert client.Tracker("toy").tags[VIEW] == "own"
