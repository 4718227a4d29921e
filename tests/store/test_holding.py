"""What a build reads is what its key says, whatever happens to its inputs meanwhile."""

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from tasks.store import artifacts, caching, holding
from tasks.store.artifacts import Key

FOLDER = Path("data/prepared/a")
OUTPUT = Path("data/experts/a/expert_000")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def elsewhere():
    """A folder on another file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        if os.stat(name).st_dev == os.stat(".").st_dev:
            pytest.skip("this machine has one file system")
        yield Path(name)


def _input(value):
    def build(work):
        (work / "part").mkdir()
        (work / "x").write_text(f"x{value}")
        (work / "part/y").write_text(f"y{value}")
        return {}

    return caching.obtain(FOLDER, Key("prepare_data", {"value": value}, {}, ""), build)


def _reader(source, meanwhile=lambda work: None):
    def build(work):
        first = (source.folder / "x").read_text()
        meanwhile(work)
        (work / "out").write_text(first + (source.folder / "part/y").read_text())
        return {}

    return build


def _key(source):
    return Key("prepare_data", {}, {"prepared": source.digest}, "")


def _output(source, meanwhile=lambda work: None):
    return caching.obtain(OUTPUT, _key(source), _reader(source, meanwhile))


def test_an_input_that_is_replaced_while_it_is_read_stays_what_it_was():
    source = _input(1)
    _output(source, lambda work: _input(2))
    assert (OUTPUT / "out").read_text() == "x1y1"
    assert (FOLDER / "x").read_text() == "x2"
    assert not list(Path("data/.work").iterdir())


def test_an_input_that_is_deleted_while_it_is_read_stays_what_it_was():
    _output(_input(1), lambda work: shutil.rmtree(FOLDER))
    assert (OUTPUT / "out").read_text() == "x1y1"


@pytest.mark.parametrize("is_deleted", [True, False])
def test_an_input_that_was_replaced_before_it_is_read_stops_with_one_message(is_deleted):
    source = _input(1)
    shutil.rmtree(FOLDER) if is_deleted else _input(2)
    with pytest.raises(holding.Replaced, match=r"data/prepared/a is not what .* run again"):
        _output(source)
    assert not OUTPUT.exists() and not list(Path("data/.work").iterdir())


def test_an_input_that_is_written_to_while_it_is_read_leaves_no_result_and_no_checkpoint():
    _output(_input(0))
    source = _input(1)

    def write(work):
        (work / ".checkpoint").write_text("7")
        (FOLDER / "part/y").write_text("z")

    with pytest.raises(holding.Written, match=r"part/y is not what this run found"):
        _output(source, write)
    assert (OUTPUT / "out").read_text() == "x0y0"
    assert not list(Path("data/.work").iterdir())


def test_an_error_that_a_changed_input_caused_is_told_as_the_change():
    def fail(work):
        (FOLDER / "x").write_text("z")
        raise RuntimeError("shapes differ")

    with pytest.raises(holding.Written) as stopped:
        _output(_input(1), fail)
    assert isinstance(stopped.value.__context__, RuntimeError)


def test_a_checkpoint_stays_where_an_input_is_not_there_for_a_while():
    source = _input(1)

    def interrupt(work):
        (work / ".checkpoint").write_text("7")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _output(source, interrupt)
    _input(2)
    with pytest.raises(holding.Replaced):
        _output(source)
    assert [path.name for path in Path("data/.work").glob("*/*")] == [".checkpoint"]


def test_raw_files_that_change_while_they_are_read_leave_no_result():
    raw = Path("raw.txt")
    raw.write_text("1")
    before, _ = caching.digest_files(lambda: [raw])

    def build(work):
        (work / "x").write_text(raw.read_text())
        raw.write_text("22")
        return {}

    with pytest.raises(holding.Written, match="what prepare_data read"):
        caching.obtain(
            FOLDER,
            Key("prepare_data", {}, before, ""),
            build,
            is_unchanged=lambda: caching.digest_files(lambda: [raw]) == (before, None),
        )
    assert not FOLDER.exists()


def test_two_folders_with_the_same_key_are_built_at_once_without_each_other():
    meeting, found = threading.Barrier(2), {}

    def make(name):
        def build(work):
            found[name] = work
            (work / "x").write_text("x")
            meeting.wait(20)
            return {}

        caching.obtain(Path("data") / name, Key("prepare_data", {}, {}, ""), build)

    threads = [threading.Thread(target=make, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert len(set(found.values())) == 2
    assert all(artifacts.verify(Path("data") / name) for name in "ab")


def test_an_artifact_on_another_disk_is_held_and_written(elsewhere):
    for folder in ("prepared", "experts"):
        (elsewhere / folder).mkdir()
        Path("data").mkdir(exist_ok=True)
        Path("data", folder).symlink_to(elsewhere / folder)
    source = _input(1)
    for value in (1, 2):  # written, then replaced
        _output(source, lambda work, value=value: _input(value + 1))
        assert (OUTPUT / "out").read_text() == f"x{value}y{value}"
        source = _input(value + 1)
    assert sorted(path.name for path in OUTPUT.iterdir()) == ["manifest.json", "out"]
    assert not list(Path("data/.work").iterdir())


def test_the_report_is_written_where_data_lies_on_another_disk(elsewhere):
    Path("data").symlink_to(elsewhere)
    foreign = Path("reports/presets/toy/main.md")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("a table")
    for value in ("1", "2"):

        def build(work, value=value):
            (work / "tables").mkdir()
            (work / f"tables/{value}.csv").write_text(value)
            return {}

        caching.obtain(Path("reports"), Key("report", {"value": value}, {}, ""), build)
        assert [path.name for path in Path("reports/tables").iterdir()] == [f"{value}.csv"]
    assert artifacts.verify(Path("reports")) and foreign.read_text() == "a table"
    assert sorted(os.listdir("reports")) == ["manifest.json", "presets", "tables"]


def test_a_full_disk_while_an_artifact_is_moved_to_another_one_leaves_the_old_one(
    elsewhere, monkeypatch
):
    Path("data").symlink_to(elsewhere)

    def build(work):
        (work / "x").write_text("x")
        return {}

    def full(source, target, **how):
        (target / "half").parent.mkdir()
        (target / "half").write_text("h")
        raise OSError(28, "No space left on device")

    caching.obtain(Path("reports"), Key("report", {"value": 1}, {}, ""), build)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(artifacts.shutil, "copytree", full)
        caching.obtain(Path("reports"), Key("report", {"value": 2}, {}, ""), build)
    assert artifacts.verify(Path("reports")).params == {"value": 1}
    assert sorted(os.listdir("reports")) == ["manifest.json", "x"]


def test_what_was_read_outside_of_a_build_is_confirmed():
    source = _input(1)
    artifacts.confirm([source])
    (FOLDER / "x").write_text("z")
    with pytest.raises(holding.Replaced, match="file x does not match"):
        artifacts.confirm([source])
    _input(2)
    with pytest.raises(holding.Replaced, match="other content"):
        artifacts.confirm([source])
