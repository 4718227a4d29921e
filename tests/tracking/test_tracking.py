"""Runs land in a real MLflow database: one parent per invocation, nested runs found again, inputs
recorded, each set once.
"""

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tasks.core.evaluation.measures import augmentation_robust_score, label_robust_score
from tasks.core.evaluation.metrics import NAMES
from tasks.core.training.pair_files import save_pairs
from tasks.core.training.pair_set import PairSet
from tasks.settings import params
from tasks.store import caching
from tasks.store.artifacts import Key, Ref
from tasks.tracking import database
from tasks.tracking import runs as measures
from tasks.tracking.client import PARENT, Tracker
from tasks.tracking.records import Input, Invocation, Part, Record, Run, flatten
from tests.workspace import ROOT


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with a database, which takes seconds to make."""
    place = tmp_path_factory.mktemp("store")
    database.ensure(place / ".mlflow/mlflow.db", place / ".mlflow")
    return place


@pytest.fixture
def here(store, monkeypatch):
    monkeypatch.chdir(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return store


def _record(invocation, digest, loss):
    child = Run("random-20", {"method": "random"}, {}, [Input("toy", "d" * 64, "{}")])
    part = Part(child, "digest", digest, [(0, {"distill/loss": 2.0}), (1, {"distill/loss": loss})])
    parent = Run("shared pipeline", {}, flatten({"distill": {"syn_steps": 8}}), [])
    return Record("shared", invocation, parent, [part])


@pytest.mark.services
def test_processes_of_one_invocation_share_a_parent_and_its_nested_runs(here):
    for invocation, digest in (("abc", "one"), ("other", "two")):
        Tracker("shared").tell(_record(invocation, digest, 1.5), here)
    again = _record("abc", "three", 1.25)
    for _ in range(2):  # once more tells nothing more
        Tracker("shared").tell(again, here)
    client = Tracker("shared").client
    found = client.search_runs([client.get_experiment_by_name("shared").experiment_id])
    parents = [run for run in found if run.data.tags.get("level") == "pipeline"]
    assert {run.data.tags["invocation"] for run in parents} == {"abc", "other"}
    (parent,) = [run for run in parents if run.data.tags["invocation"] == "abc"]
    (child,) = [run for run in found if run.data.tags.get(PARENT) == parent.info.run_id]
    assert len(found) == 4
    history = client.get_metric_history(child.info.run_id, "distill/loss")
    assert sorted(point.value for point in history) == [1.25, 1.5, 2.0, 2.0]
    assert parent.data.params == {"distill.syn_steps": "8"}
    (data,) = child.inputs.dataset_inputs
    assert data.dataset.digest == "d" * 36
    assert {run.info.status for run in found} == {"FINISHED"}


def _made(folder):
    """A distilled artifact as `tasks/distill.py` leaves it, with the files that are logged."""

    def build(work):
        pd.DataFrame({"iteration": [0, 1], "loss": [2.0, 1.5]}).to_parquet(
            work / "history.parquet", index=False
        )
        half = (0.5, 0.5, 0.5)
        save_pairs(work, PairSet(torch.zeros(20, 3, 4, 4), torch.ones(20, 5), half, half))
        return {}

    return caching.obtain(folder, Key("distill", {"of": str(folder)}, {}, "code"), build)


def _runs(tag, digest):
    tracker = Tracker("toy")
    return tracker.client.search_runs([tracker.experiment_id], f"tags.{tag} = '{digest}'")


def _killed_in(method, log):
    """Call `log` in a process that ends, as by kill -9, when it is to call a method of Tracker."""
    child = os.fork()
    if not child:
        setattr(Tracker, method, lambda *_: os._exit(9))
        log()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.services
def test_a_set_whose_logging_was_killed_is_logged_by_the_next_run_and_then_never_again(here):
    chosen = params.load(["profile=toy"], path=ROOT / "params.yaml")
    prepared = Ref("data/prepared/toy", "d" * 64)
    folder = Path("data/distilled/toy/bi_trajectory/bi_trajectory-20")
    _made(folder)  # killed here
    distilled = _made(folder)
    assert distilled.is_cached

    def log(name):
        measures.log_distilled(chosen, Invocation(name, "pipeline"), prepared, distilled)

    _killed_in("_end", lambda: log("first"))
    assert _runs(measures.DISTILLED, distilled.digest) == []
    shutil.rmtree(folder)  # what is to be told outlives what it is told of
    for name in ("second", "third"):
        log(name)
        (run,) = _runs(measures.DISTILLED, distilled.digest)
        assert run.data.metrics["distill/loss"] == 1.5 and run.info.status == "FINISHED"
        assert run.data.tags["mlflow.source.name"] == "bi_trajectory-20"
    _made(folder)
    shutil.rmtree(".mlflow/logged")  # a note alone decides nothing: MLflow is asked
    log("fourth")
    assert len(_runs(measures.DISTILLED, distilled.digest)) == 1
    with contextlib.closing(sqlite3.connect(".mlflow/mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # whoever asked it now would keep the set for later
        log("fifth")
    assert not list(Path(".mlflow/spool").glob("*/*"))
    tracker = Tracker("toy")
    (parent,) = tracker.client.search_runs([tracker.experiment_id], "tags.level = 'pipeline'")
    assert parent.info.run_name == "toy pipeline"
    assert parent.inputs.dataset_inputs[0].dataset.name == "toy"


def _scored(folder: Path, values: list[float]) -> list[Ref]:
    """Score artifacts of one set, a student for each of `values`."""
    refs = []
    for seed, value in enumerate(values):
        own = folder / f"seed_{seed}"
        own.mkdir(parents=True)
        score = {key: value + place for place, key in enumerate(NAMES)}
        (own / "score.json").write_text(json.dumps({**score, "chosen_epoch": 10 * seed}))
        refs.append(Ref(str(own), str(seed) * 64))
    return refs


def test_several_students_have_the_deviation_of_the_report(tmp_path):
    values = [10.0, 12.0, 17.0]
    found = measures.statistics_of(_scored(tmp_path, values))
    for place, key in enumerate(NAMES):
        assert found[f"test/{key}"] == pytest.approx(13.0 + place)
        assert found[f"test/{key}_std"] == pytest.approx(np.std(values, ddof=1))
    assert found["evaluate/chosen_epoch"] == 10.0


def test_one_student_has_no_deviation(tmp_path):
    found = measures.statistics_of(_scored(tmp_path, [10.0]))
    assert found[f"test/{NAMES[0]}"] == 10.0
    assert not [key for key in found if key.endswith("_std")]


def test_a_set_is_told_beside_random_pairs_and_the_full_data(tmp_path):
    place = NAMES.index("mean_recall")
    recalls = {"random-9": 8.0, "made-9": 28.0, "made-plain-9": 18.0, "full": 40.0}
    students = {
        name: _scored(tmp_path / name, [recall - place - 1, recall - place + 1])
        for name, recall in recalls.items()
    }
    found = measures.beside_of("made-9", students)
    hlr = 0.22
    assert found == pytest.approx(
        {
            "test/improvement_over_random": 0.2,
            "test/recovery": 0.7,
            "test/hlr": hlr,
            "test/lrs": label_robust_score(0.2, hlr),
        }
    )
    assert set(measures.beside_of("made-plain-9", students)) == set(found) - {
        "test/hlr",
        "test/lrs",
    }
    assert measures.beside_of("full", students) == {}


def test_augmented_and_further_students_are_told_where_they_are(tmp_path):
    place = NAMES.index("mean_recall")

    def scored(name, recalls):
        return {
            key: _scored(tmp_path / name / key, [recall - place]) for key, recall in recalls.items()
        }

    recalls = {"random-9": 8.0, "made-9": 28.0, "random_equal_bytes-9": 30.0, "full": 40.0}
    crops = {"random-augmented-9": 9.0, "made-augmented-9": 21.0}
    students = scored("home", recalls | crops)
    unseen = [scored("one", {"random-9": 8.0, "made-9": 16.0}), scored("two", recalls)]
    found = measures.beside_of("made-9", students, unseen)
    assert found["test/ars"] == pytest.approx(augmentation_robust_score(0.2, 0.12))
    assert found["test/encoder_robustness"] == pytest.approx((0.08 + 0.2) / 2 / 0.2)
    # Random pairs beat themselves by nothing, and rows of students are no sets
    assert "test/encoder_robustness" not in measures.beside_of("random-9", students, unseen)
    equal = measures.beside_of("random_equal_bytes-9", students, unseen)
    assert set(equal) == {"test/recovery"}
    again = measures.beside_of("made-augmented-9", students, unseen)
    assert not {"test/ars", "test/encoder_robustness"} & set(again)


def test_the_page_of_mlflow_is_told_the_commit_where_there_is_one():
    assert measures.source_of("abc", "pipeline")["mlflow.source.git.commit"] == "abc"
    assert "mlflow.source.git.commit" not in measures.source_of(None, "pipeline")
