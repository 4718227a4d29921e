"""Samples of the machine: asked for by MLflow's own switch, and never in the way of a run."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from types import ModuleType

import pytest
import torch

from tasks.tracking import system
from tests.workspace import ROOT

INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"


def test_without_the_switch_there_is_no_sample_and_mlflow_is_not_imported():
    code = (
        "import sys; from tasks.tracking import system\n"
        "with system.watched() as rows: pass\n"
        "assert rows == [] and 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_samples_have_the_values_of_mlflow_and_their_number_as_step(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setenv(system.SWITCH, "true")
    monkeypatch.setenv(INTERVAL, "0.05")
    with system.watched() as rows:
        limit = time.monotonic() + 30
        while len(rows) < 3 and time.monotonic() < limit:
            time.sleep(0.01)
    seen = len(rows)
    assert [step for step, _ in rows] == list(range(seen)) and seen >= 3
    for _, values in rows:
        assert set(values) == {
            "system/cpu_utilization_percentage",
            "system/system_memory_usage_megabytes",
        }
        assert 0 <= values["system/cpu_utilization_percentage"] <= 100
        assert values["system/system_memory_usage_megabytes"] > 100
    time.sleep(0.2)
    assert len(rows) == seen


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [(system.SWITCH, "maybe", "maybe"), (INTERVAL, "often", "often"), (system.SWITCH, "0", None)],
)
def test_a_switch_that_mlflow_does_not_take_is_said_and_ends_no_run(
    monkeypatch, caplog, name, text, said
):
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv(system.SWITCH, "true")
    monkeypatch.setenv(name, text)
    with system.watched() as rows:
        pass
    assert rows == [] and ("no system metrics" in caplog.text) == bool(said)
    assert (said or "") in caplog.text


def test_an_error_of_the_work_passes_and_the_samples_end(monkeypatch):
    monkeypatch.setenv(system.SWITCH, "true")
    monkeypatch.setenv(INTERVAL, "0.05")
    with pytest.raises(KeyError), system.watched():
        raise KeyError("of the work")


def test_the_card_that_pytorch_works_on_has_values_and_no_process_gets_one_for_them(
    monkeypatch, caplog
):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert system.of_card() == {}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6_000_000, 8_000_000))
    memory = {"gpu_0_memory_usage_megabytes": 2.0}
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 90)
    assert system.of_card() == {**memory, "gpu_0_utilization_percentage": 90.0}

    def refused() -> int:
        raise RuntimeError("no NVML here")

    monkeypatch.setattr(torch.cuda, "utilization", refused)
    assert system.of_card() == system.of_card() == memory
    assert caplog.text.count("no load of the card: no NVML here") == 1
    # While another thread imports it
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    assert system.of_card() == {}
