"""Two pipelines with different settings at once in one folder, at random offsets: what is there
afterwards is what undisturbed runs make under the same keys.
"""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.rounds import rounds
from tests.test_stages import PLAIN
from tests.workspace import TINY, make_workspace

pytestmark = pytest.mark.services

SETTINGS = {"a": (), "b": ("seed=1", "prepare_data.options.seed=1")}
LONGEST_OFFSET = 0.8  # of a run


def _run(workspace, name):
    return workspace.program(PLAIN, "distill", *SETTINGS[name], seconds=600, check=False)


def _made(folder):
    """Return the digests of files by key, of every artifact."""
    manifests = [
        json.loads(path.read_text())
        for path in folder.glob("data/**/manifest.json")
        if ".work" not in path.parts
    ]
    return {manifest["key"]: manifest["files"] for manifest in manifests}


def test_two_pipelines_at_once_leave_what_each_makes_alone(tmp_path):
    workspace, expected = make_workspace(tmp_path / "copy", TINY), {}
    for name in SETTINGS:
        alone = make_workspace(tmp_path / name, TINY)
        began = time.monotonic()
        assert _run(alone, name).returncode == 0
        seconds = time.monotonic() - began
        expected.update(_made(alone.folder))
    draw, seen = random.Random(0), 0
    for _ in range(rounds(1)):
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(_run, workspace, "a")]
            time.sleep(draw.random() * LONGEST_OFFSET * seconds)
            both.append(pool.submit(_run, workspace, "b"))
        for run in (one.result() for one in both):
            assert run.returncode == 0 or "is not what this run found there before" in run.stderr
        found = _made(workspace.folder)
        assert all(expected.get(key, files) == files for key, files in found.items())
        seen += sum(key in expected for key in found)
        assert not list(workspace.folder.glob("data/.work/*"))
    assert seen >= rounds(1)
