"""Tasks ask for a slot of the limit `gpu` only where somebody else could hold it."""

from __future__ import annotations

import pytest

from flows import policy
from tasks import distill, evaluate, train_experts


@pytest.mark.parametrize(
    "task", [train_experts.train_expert, distill.distill, evaluate.train_student]
)
def test_on_a_private_server_a_task_takes_no_slot_and_keeps_its_retries(
    task, tmp_path, monkeypatch
):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    free = policy.OnGpu(task).chosen()
    assert free.tags == set()
    assert free.retries == len(policy.RETRY_SECONDS)
    assert task.tags == {policy.GPU}
