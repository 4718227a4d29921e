"""Two different runs at once in one folder: no artifact ever holds what its key does not say."""

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.rounds import rounds
from tests.workspace import ROOT, environment


def _start(folder, seed, seconds):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.runs_in_one_folder", str(seed), str(seconds)],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_two_runs_of_other_settings_leave_no_wrong_artifact(tmp_path):
    runs = [_start(tmp_path, seed, rounds(12)) for seed in (1, 2)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("begin\n")
        run.stdin.flush()
    counts = [json.loads(run.communicate(timeout=300)[0].splitlines()[-1]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], counts
    for found in counts:
        assert found["wrong"] == 0 and found["made"] > 10
        assert set(found) <= {"wrong", "made", "found", "stopped"}  # no other error
    assert sum(found.get("stopped", 0) for found in counts) > 0  # they did meet
    assert not list(Path(tmp_path, "data/.work").iterdir())
