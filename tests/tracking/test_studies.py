"""A study lands in a real MLflow database: its files, and a run a row."""

from __future__ import annotations

import pytest

from tasks.settings import params, studies
from tasks.store import caching
from tasks.store.artifacts import Key
from tasks.tracking import database
from tasks.tracking.client import PARENT, Tracker
from tasks.tracking.studies import PAGES, log_study
from tests.workspace import ROOT

NUMBERS = {
    "full": {"study/tau": 0.8, "study/num_pairs": 6000},
    "random-9": {"study/tau": float("nan"), "study/num_pairs": 9},
}


@pytest.fixture
def logged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database.ensure(tmp_path / ".mlflow/mlflow.db", tmp_path / ".mlflow")
    chosen = params.load(["profile=toy"], path=ROOT / "params.yaml")
    study = studies.load("architecture_search", chosen, ROOT / "params.yaml")

    def build(work):
        (work / "content").write_text("one")
        return {}

    prepared = caching.obtain(
        tmp_path / "data/prepared/toy", Key("prepare_data", {}, {}, "c"), build
    )
    pages = [tmp_path / f"architecture_search.{ending}" for ending in ("csv", "md", "html")]
    for page in pages:
        page.write_text(page.suffix)

    def log(scores):
        log_study(chosen, study, prepared, scores, NUMBERS, pages)
        tracker = Tracker("toy")
        found = tracker.client.search_runs([tracker.experiment_id])
        return tracker.client, found, [run for run in found if PAGES in run.data.tags]

    return prepared, log


@pytest.mark.services
def test_a_study_is_a_run_with_its_files_and_one_a_row_and_is_told_once(logged):
    prepared, log = logged
    for _ in range(2):
        client, found, (parent,) = log([prepared])
        assert len(found) == 3
    assert parent.info.run_name == "toy study architecture_search"
    assert parent.data.params["study.embed_dim"] == "(32, 128)"
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {f"architecture_search.{ending}" for ending in ("csv", "md", "html")}
    rows = {run.info.run_name: run for run in found if PARENT in run.data.tags}
    assert set(rows) == set(NUMBERS)
    assert {run.data.tags[PARENT] for run in rows.values()} == {parent.info.run_id}
    assert rows["full"].data.metrics == NUMBERS["full"]
    assert rows["random-9"].data.metrics == {"study/num_pairs": 9}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(log([prepared, prepared])[2]) == 2  # other scores are another run
