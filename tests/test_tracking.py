"""Runs land in a real MLflow database: one parent per invocation, nested runs found again, inputs recorded."""

import pytest

from tasks.tracking import Tracker, flatten


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
    assert [point.value for point in second.client.get_metric_history(child, "distill/loss")] == [2.0, 1.5]
    assert second.client.get_run(parent).data.params == {"distill.syn_steps": "8"}
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert run.info.status == "FINISHED"
