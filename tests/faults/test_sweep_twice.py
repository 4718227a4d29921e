"""Two sweeps of different names over the same cells, at once in one folder."""

from __future__ import annotations

import re

import pytest

from tests.faults.sweeps import SETTINGS, end, half_written, start
from tests.workspace import make_workspace

pytestmark = pytest.mark.services
MADE = re.compile(r"distill_sweep: (\d+) made")


def test_two_sweeps_at_once_make_each_expert_and_each_cell_once(made, tmp_path):
    workspace = make_workspace(tmp_path / "copy", SETTINGS)
    both = [start(workspace, "--name", name) for name in ("one", "two")]
    outputs = [end(sweep) for sweep in both]
    assert all("2 of 2: bi_trajectory-4" in output for output in outputs)
    counts = [int(MADE.search(output)[1]) for output in outputs]
    assert sum(counts) == len(made.digests()) and workspace.digests() == made.digests()
    assert half_written(workspace) == []
