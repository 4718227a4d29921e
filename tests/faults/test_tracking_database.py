"""The database of MLflow is killed, filled, locked and damaged in all ways: no run ends by it, and
what was logged is there once, or said to be elsewhere.
"""

import contextlib
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys

import pytest

from flows.services import standing
from tests.faults import logged_units
from tests.faults.rounds import rounds
from tests.faults.tracked import WITHOUT, Folder, check, free_port
from tests.workspace import ROOT, environment

pytestmark = pytest.mark.services

FULL_BYTES = 400 * 1024
ASIDE = "lies in"


def _database(folder):
    return folder.place / ".mlflow/mlflow.db"


def _uri(folder):
    return f"sqlite:///{_database(folder)}"


def _num_bytes(folder):
    """Return what the database takes, under whatever name it is made."""
    found = 0
    for path in _database(folder).parent.glob("*mlflow.db*"):
        with contextlib.suppress(FileNotFoundError):  # it is renamed
            found += path.stat().st_size
    return found


def _is_killed_at(limit, process, folder):
    """Kill a process when its database has some bytes; return whether it still ran."""
    return process.kill_when(lambda: _num_bytes(folder) >= limit)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which run 1 has logged two units."""
    folder = Folder(tmp_path_factory.mktemp("made") / "a")
    folder.run(1, 2)
    return folder


@pytest.fixture
def copied(made, tmp_path):
    folder = Folder(tmp_path / "a")
    shutil.copytree(made.place, folder.place)
    return folder


def test_a_first_run_that_is_killed_anywhere_leaves_no_database_that_is_half_made(tmp_path, made):
    draw = random.Random(0)
    for number in range(rounds(8)):
        folder, limit = Folder(tmp_path / str(number)), draw.random() * _num_bytes(made)
        assert _is_killed_at(limit, folder.start(1, 2), folder)
        _, said = folder.run(1, 2)
        assert ASIDE not in said and WITHOUT not in said
        check(_uri(folder), {1: 2})
        assert sorted(path.suffix for path in _database(folder).parent.glob("*mlflow.db*")) == [
            ".db",
            ".lock",
        ]


def test_a_database_that_a_killed_server_left_half_made_is_mended_or_set_aside(tmp_path, made):
    draw, said = random.Random(1), ""
    for number in range(rounds(4)):
        folder, limit = Folder(tmp_path / str(number)), draw.random() * _num_bytes(made)
        _database(folder).parent.mkdir(parents=True)
        server = folder.begin(logged_units.make_raw, _database(folder))
        assert _is_killed_at(limit, server, folder)
        before = _database(folder).exists() and _database(folder).stat().st_size
        _, text = folder.run(1, 2)
        assert WITHOUT not in text
        check(_uri(folder), {1: 2})
        asides = list(_database(folder).parent.glob("mlflow.db.[0-9]"))
        assert bool(asides) == (ASIDE in text) and (before or not asides)
        assert all(str(aside) in text for aside in asides)
        said += text
    assert said


@pytest.mark.parametrize("num_runs", [2, 4])
def test_first_runs_at_once_in_one_folder_make_one_database(tmp_path, num_runs):
    folder = Folder(tmp_path / "a")
    for _ in range(rounds(1)):
        shutil.rmtree(folder.place, ignore_errors=True)
        for process in [folder.start(number, 2) for number in range(num_runs)]:
            assert WITHOUT not in process.end()[1]
        check(_uri(folder), dict.fromkeys(range(num_runs), 2))
        assert folder.waiting == []


def test_the_server_of_the_folder_may_start_at_the_same_moment_as_a_first_run(
    tmp_path, monkeypatch
):
    folder = Folder(tmp_path / "a")
    folder.place.mkdir()
    process = folder.start(1, 2)
    monkeypatch.chdir(folder.place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with standing.mlflow(free_port()) as server:
        assert WITHOUT not in process.end()[1]
        server.wait()
        check(server.url, {1: 2})


def test_the_server_of_the_folder_says_what_it_sets_aside(copied, monkeypatch, capfd):
    _database(copied).write_bytes(b"<html>no database</html>")
    monkeypatch.chdir(copied.place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with standing.mlflow(free_port()) as server:
        server.wait()
        assert f"{ASIDE} {_database(copied)}.1" in capfd.readouterr().err
        copied.run(1, 2)
        check(server.url, {1: 2})


def test_a_locked_database_costs_a_run_some_seconds_and_is_told_later(copied):
    with contextlib.closing(sqlite3.connect(_database(copied), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        seconds, said = copied.run(2, 3)
    assert seconds < 10 and said.count(WITHOUT) == 1 and "database is locked" in said
    assert "told MLflow of 3 logged units" in copied.run(3, 1)[1]
    check(_uri(copied), {1: 2, 2: 3, 3: 1})


def test_a_read_only_database_is_told_later(copied):
    database = _database(copied)
    with _mounted(database, "--bind", str(database)):
        _mount("-o", "remount,ro,bind", str(database))
        seconds, said = copied.run(2, 2)
    assert seconds < 10 and said.count(WITHOUT) == 1 and "readonly" in said
    copied.run(3, 1)
    check(_uri(copied), {1: 2, 2: 2, 3: 1})


@pytest.mark.parametrize("damage", ["cut", "zeroed", "text"])
def test_a_damaged_database_is_set_aside_and_what_artifacts_show_is_told_again(copied, damage):
    database = _database(copied)
    content = database.read_bytes()
    half = len(content) // 2
    broken = {
        "cut": content[:half],
        "zeroed": content[:4096] + bytes(half) + content[4096 + half :],
        "text": b"<html>no database</html>",
    }[damage]
    database.write_bytes(broken)
    _, said = copied.run(2, 1)
    aside = database.with_name("mlflow.db.1")
    assert aside.read_bytes() == broken and f"{ASIDE} {aside}" in said and WITHOUT not in said
    assert copied.run(1, 2)[1] == ""
    check(_uri(copied), {1: 2, 2: 1})


OLDER = """
import sys
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db import utils
engine = utils.create_sqlalchemy_engine(f"sqlite:///{sys.argv[1]}")
utils.InitialBase.metadata.create_all(engine)
config = utils._get_alembic_config(str(engine.url))
revisions = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, revisions[5])
"""


def test_an_older_database_is_mended_on_a_copy_and_keeps_what_it_holds(tmp_path):
    folder = Folder(tmp_path / "a")
    database = _database(folder)
    database.parent.mkdir(parents=True)
    older = [sys.executable, "-c", OLDER, str(database)]
    subprocess.run(older, env=environment(), check=True, capture_output=True)
    with contextlib.closing(sqlite3.connect(database)) as old, old:
        old.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES ('kept', 'active')")
    os.utime(database, (0, 0))
    content = database.read_bytes()
    _, said = folder.run(1, 2)
    aside = database.with_name("mlflow.db.1")
    assert f"{ASIDE} {aside}" in said and aside.read_bytes() == content
    check(_uri(folder), {1: 2})
    with contextlib.closing(sqlite3.connect(database)) as found:
        names = {name for (name,) in found.execute("SELECT name FROM experiments")}
    assert "kept" in names


def test_a_database_of_a_later_mlflow_is_left_alone_and_what_it_should_hear_kept(copied):
    with contextlib.closing(sqlite3.connect(_database(copied))) as later, later:
        later.execute("UPDATE alembic_version SET version_num = 'unknown'")
    os.utime(_database(copied), (0, 0))
    content = _database(copied).read_bytes()
    _, said = copied.run(2, 1)
    assert WITHOUT in said and "'unknown'" in said and len(copied.waiting) == 1
    assert _database(copied).read_bytes() == content


def test_a_database_that_can_grow_no_further_ends_no_run(tmp_path):
    folder = Folder(tmp_path / "a", max_file_bytes=FULL_BYTES)
    _, said = folder.run(1, 2)
    assert said.count(WITHOUT) == 1 and len(folder.waiting) == 2
    assert not _database(folder).exists()
    folder.max_file_bytes = resource.RLIM_INFINITY
    assert WITHOUT not in folder.run(2, 1)[1]
    check(_uri(folder), {1: 2, 2: 1})


def test_a_full_disk_ends_no_run_and_what_was_kept_is_told_when_there_is_space(tmp_path, made):
    folder = Folder(tmp_path / "a")
    store = folder.place / ".mlflow"
    store.mkdir(parents=True)
    with _mounted(store, "-t", "tmpfs", "-o", f"size={FULL_BYTES}", "tmpfs"):
        _, said = folder.run(1, 2)
        assert said.count(WITHOUT) == 1 and "full" in said
        assert not _database(folder).exists()
        _mount("-o", "remount,size=64m", str(store))
        assert WITHOUT not in folder.run(2, 1)[1]
        check(_uri(folder), {1: 2, 2: 1})
        disk = os.statvfs(store)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        _mount("-o", f"remount,size={used + 16 * disk.f_frsize}", str(store))
        _, said = folder.run(3, 40)  # nor may what is kept fit
        assert WITHOUT in said or "could not keep" in said
        _mount("-o", "remount,size=64m", str(store))
        assert WITHOUT not in folder.run(3, 40)[1]
        check(_uri(folder), {1: 2, 2: 1, 3: 40})


@contextlib.contextmanager
def _mounted(place, *words):
    """Mount something in this block, where the machine lets us."""
    if not _mount(*words, str(place), check=False):
        pytest.skip("nothing can be mounted by this user")
    try:
        yield
    finally:
        # At once, and for programs that have files open when they close them
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*words, check=True):
    try:
        done = subprocess.run(["mount", *words], capture_output=True, check=check)
    except FileNotFoundError:
        return False
    return done.returncode == 0
