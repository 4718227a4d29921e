"""kill -9 of a build at every moment: what is there verifies, or is made again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.stages import STAGES
from tasks.store import artifacts, caching
from tasks.store.artifacts import Key
from tests.workspace import ROOT, environment

# A build that writes a checkpoint, while its input is written to in place, and is killed
TAINTED = """
import os, sys
from pathlib import Path
from tasks.store import caching
from tasks.store.artifacts import Key

def prepare(work):
    (work / "x").write_text("good")
    return {}

def build(work):
    checkpoint = work / ".checkpoint"
    if not checkpoint.exists():
        if sys.argv[1] == "killed":
            (source.folder / "x").write_text("evil")
        checkpoint.write_text((source.folder / "x").read_text())
    if sys.argv[1] == "killed":
        os._exit(9)
    (work / "out").write_text(checkpoint.read_text())
    return {}

source = caching.obtain(Path("data/prepared/a"), Key("report", {}, {}, ""), prepare)
key = Key("report", {}, {"prepared": source.digest}, "")
caching.obtain(Path("data/experts/a"), key, build)
"""


def _run(folder, *args):
    return subprocess.run(
        [sys.executable, "-c", TAINTED, *args],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def reports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caching.git_state()  # once, and not in every process below
    STAGES["report"].import_libraries()

    def build(work):
        (work / "tables").mkdir()
        (work / "tables/old.csv").write_text("old")
        (work / "plots").mkdir()
        (work / "plots/old.csv").write_text("old")
        (work / "index.html").write_text("old")
        return {}

    key = Key("report", {"value": "old"}, {}, "")
    artifacts.write(Path("reports"), key, build, {})
    foreign = Path("reports/presets/toy/main.md")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("a table")
    return foreign


def _replace_report():
    def build(work):
        assert not [item for item in work.iterdir() if item.name[0] != "."]
        (work / "tables").mkdir()
        (work / "tables/new.csv").write_text("new")
        (work / "index.html").write_text("new")
        return {}

    caching.obtain(Path("reports"), Key("report", {"value": "new"}, {}, ""), build)


def _killed_after(calls, run):
    """Return the exit code of a process that ends, as by kill -9, when it is about to change the
    disk once more.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [calls]

    def counted(call):
        def ending(*args, **how):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return call(*args, **how)

        return ending

    for name in ("replace", "unlink", "rmdir", "mkdir", "rename"):
        setattr(os, name, counted(getattr(os, name)))
    try:
        run()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_report_that_is_killed_while_it_replaces_another_loses_nothing_of_others(reports):
    for calls in range(40):
        code = _killed_after(calls, _replace_report)
        assert reports.read_text() == "a table"
        if code == 0:
            break
        assert code == 9
        try:
            found = artifacts.verify(Path("reports"))
        except artifacts.DamagedArtifact:
            continue
        assert found.params["value"] in ("old", "new")
    assert calls >= 5 and artifacts.verify(Path("reports")).params == {"value": "new"}
    _replace_report()
    assert not list(Path("data/.work").iterdir())
    names = sorted(str(path) for path in Path("reports").rglob("*") if path.is_file())
    made = ["index.html", "manifest.json", "presets/toy/main.md", "tables/new.csv"]
    assert names == [f"reports/{name}" for name in made]


def test_a_checkpoint_of_an_input_that_was_written_to_is_not_resumed_from(tmp_path):
    assert _run(tmp_path, "killed").returncode == 9
    assert next(tmp_path.glob("data/.work/*/.checkpoint")).read_text() == "evil"
    done = _run(tmp_path, "again")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data/experts/a/out").read_text() == "good"
    assert not list(tmp_path.glob("data/.work/*"))
