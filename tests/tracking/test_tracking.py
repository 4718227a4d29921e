"""Runs land in a real MLflow database: one parent per invocation, nested runs found again, inputs
recorded, each set once.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.core.evaluation.metrics import NAMES
from tasks.settings import params
from tasks.store import caching
from tasks.store.artifacts import Key, Ref
from tasks.tracking import runs as measures
from tasks.tracking.client import Tracker, flatten
from tests.workspace import ROOT


@pytest.mark.services
def test_processes_of_one_invocation_share_a_parent_and_its_nested_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = Tracker("toy", "abc")
    parent = first.parent(flatten({"distill": {"syn_steps": 8}}), {"git_commit": "123"})
    child = first.child(parent, "random-20", {"method": "random"})
    second = Tracker("toy", "abc")
    assert second.parent({}, {}) == parent
    assert second.child(parent, "random-20", {}) == child
    assert Tracker("toy", "other").parent({}, {}) != parent
    second.log_history(child, [(0, {"distill/loss": 2.0}), (1, {"distill/loss": 1.5})])
    second.log_inputs(child, "toy", "d" * 64, "data/prepared/toy")
    second.finish(child)
    run = second.client.get_run(child)
    assert [point.value for point in second.client.get_metric_history(child, "distill/loss")] == [
        2.0,
        1.5,
    ]
    assert second.client.get_run(parent).data.params == {"distill.syn_steps": "8"}
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert run.info.status == "FINISHED"


def _made(folder):
    """A distilled artifact as `tasks/distill.py` leaves it, with the files that are logged."""

    def build(work):
        pd.DataFrame({"iteration": [0, 1], "loss": [2.0, 1.5]}).to_parquet(
            work / "history.parquet", index=False
        )
        return {}

    return caching.obtain(folder, Key("distill", {"of": str(folder)}, {}, "code"), build)


def _runs(tag, digest):
    tracker = Tracker("toy", "anybody")
    return tracker.client.search_runs([tracker.experiment_id], f"tags.{tag} = '{digest}'")


@pytest.mark.services
def test_a_set_whose_logging_was_killed_is_logged_by_the_next_run_and_then_never_again(
    tmp_path, monkeypatch
):
    chosen = params.load(["profile=toy"], path=ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepared = Ref("data/prepared/toy", "d" * 64)
    folder = Path("data/distilled/toy/bi_trajectory/bi_trajectory-20")
    _made(folder)  # killed here
    distilled = _made(folder)
    assert distilled.is_cached
    with monkeypatch.context() as killed:
        killed.setattr(Tracker, "mark", _killed)
        with pytest.raises(KeyboardInterrupt):
            measures.log_distilled(chosen, "first", prepared, distilled)
    assert _runs(measures.DISTILLED, distilled.digest) == []
    for invocation in ("second", "third"):
        measures.log_distilled(chosen, invocation, prepared, distilled)
        (run,) = _runs(measures.DISTILLED, distilled.digest)
        assert run.data.metrics["distill/loss"] == 1.5 and run.info.status == "FINISHED"
    shutil.rmtree(".mlflow/logged")  # a note alone decides nothing: MLflow is asked
    measures.log_distilled(chosen, "fourth", prepared, distilled)
    assert len(_runs(measures.DISTILLED, distilled.digest)) == 1
    started = time.monotonic()
    measures.log_distilled(chosen, "fifth", prepared, distilled)
    assert time.monotonic() - started < 0.3


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
    found = measures._statistics(_scored(tmp_path, values))
    for place, key in enumerate(NAMES):
        assert found[f"test/{key}"] == pytest.approx(13.0 + place)
        assert found[f"test/{key}_std"] == pytest.approx(np.std(values, ddof=1))
    assert found["evaluate/chosen_epoch"] == 10.0


def test_one_student_has_no_deviation(tmp_path):
    found = measures._statistics(_scored(tmp_path, [10.0]))
    assert found[f"test/{NAMES[0]}"] == 10.0
    assert not [key for key in found if key.endswith("_std")]


def _killed(*_):
    raise KeyboardInterrupt
