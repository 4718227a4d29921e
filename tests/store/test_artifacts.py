"""Artifacts exist only while their manifest verifies, and a failed build leaves none behind."""

import json
import os
from pathlib import Path

import pytest

from tasks.store import artifacts, caching
from tasks.store.artifacts import Key


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _key(value=1, code="c"):
    return Key("prepare_data", {"value": value}, {"raw": "abc"}, code)


def _builder(calls, text="hello"):
    def build(work: Path):
        calls.append(1)
        (work / "x.txt").write_text(text)
        return {"rows": 1}

    return build


def test_second_request_with_the_same_key_is_served_from_the_artifact():
    calls = []
    first = caching.obtain(Path("data/a"), _key(), _builder(calls))
    second = caching.obtain(Path("data/a"), _key(), _builder(calls))
    assert (first.is_cached, second.is_cached, len(calls)) == (False, True, 1)
    assert first.digest == second.digest


def test_changed_parameter_rebuilds():
    calls = []
    caching.obtain(Path("data/a"), _key(1), _builder(calls))
    assert not caching.obtain(Path("data/a"), _key(2), _builder(calls)).is_cached


@pytest.mark.parametrize("damage", ["corrupt", "delete_file", "delete_manifest"])
def test_damaged_artifact_is_rebuilt_and_named(damage, caplog):
    calls = []
    caching.obtain(Path("data/a"), _key(), _builder(calls))
    target = Path("data/a") / ("manifest.json" if damage == "delete_manifest" else "x.txt")
    target.write_text("other") if damage == "corrupt" else target.unlink()
    assert not caching.obtain(Path("data/a"), _key(), _builder(calls)).is_cached
    assert Path("data/a/x.txt").read_text() == "hello"
    assert "data/a" in caplog.text


def test_failed_build_leaves_the_old_artifact_and_no_work_folder():
    caching.obtain(Path("data/a"), _key(1), _builder([]))

    def fail(work: Path):
        (work / "half.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        caching.obtain(Path("data/a"), _key(2), fail)
    assert artifacts.verify(Path("data/a")).params == {"value": 1}
    assert list(Path("data/.work").iterdir()) == []


def test_checkpoint_of_an_interrupted_build_is_found_again_and_not_part_of_the_artifact():
    def interrupted(work: Path):
        (work / ".checkpoint").write_text("7")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caching.obtain(Path("data/a"), _key(), interrupted)

    def resumed(work: Path):
        (work / "x.txt").write_text((work / ".checkpoint").read_text())
        return {}

    caching.obtain(Path("data/a"), _key(), resumed)
    assert sorted(path.name for path in Path("data/a").iterdir()) == ["manifest.json", "x.txt"]
    assert Path("data/a/x.txt").read_text() == "7"


def test_accepted_code_keeps_the_artifact_and_is_recorded():
    calls = []
    caching.obtain(Path("data/a"), _key(code="old"), _builder(calls))
    ref = caching.obtain(Path("data/a"), _key(code="new"), _builder(calls), accept_code=True)
    manifest = json.loads(Path("data/a/manifest.json").read_text())
    assert ref.is_cached and len(calls) == 1
    assert (manifest["code"], manifest["accepted_code"]) == ("new", "old")
    assert caching.obtain(Path("data/a"), _key(code="new"), _builder(calls)).is_cached


def test_code_is_accepted_although_a_manifest_knows_no_tuples_and_no_integer_keys():
    def key(code):
        return Key("distill", {"mean": (0.5, 0.5), "lr_img": {100: 1.0}}, {}, code)

    caching.obtain(Path("data/a"), key("old"), _builder([]))
    assert caching.obtain(Path("data/a"), key("new"), _builder([]), accept_code=True).is_cached


def test_an_artifact_written_anew_leaves_folders_that_are_not_its_own():
    foreign = Path("reports/presets/toy/main.md")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("a table")
    assert artifacts.verify(Path("reports")) is None
    for digest, names in (("1", ("tables", "plots")), ("2", ("tables",))):

        def build(work, names=names):
            for name in names:
                (work / name).mkdir()
                (work / name / "a.csv").write_text("x")
            return {}

        artifacts.write(Path("reports"), Key("report", {"digest": digest}, {}, "code"), build, {})
        assert foreign.read_text() == "a table"
    assert not Path("reports/plots").exists()


def test_files_and_folders_reach_the_disk_before_the_manifest_and_again_after_it(monkeypatch):
    happened, sync, replace = [], os.fsync, os.replace

    def synced(place):
        happened.append(("sync", Path(f"/proc/self/fd/{place}").resolve().name))
        sync(place)

    def replaced(source, target):
        happened.append(("name", f"{Path(target).parent.name}/{Path(target).name}"))
        replace(source, target)

    def build(work):
        (work / "deep").mkdir()
        (work / "deep" / "x").write_text("x")
        return {}

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    caching.obtain(Path("data/some/a"), _key(), build)
    moved, last = happened.index(("name", "a/deep")), happened.index(("name", "a/manifest.json"))
    before = {name for kind, name in happened[:moved] if kind == "sync"}
    assert {"x", "deep", "data", "some"} <= before
    assert ("sync", "a") in happened[moved:last] and ("sync", "a") in happened[last:]
