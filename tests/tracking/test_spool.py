"""Records that wait: what cannot be told or kept is said, and hinders no other."""

import logging

import pytest

from tasks.tracking import client, database, spool
from tasks.tracking.client import Tracker
from tasks.tracking.records import Part, Record, Run

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with a database, which takes seconds to make."""
    place = tmp_path_factory.mktemp("store")
    database.ensure(place / ".mlflow/mlflow.db", place / ".mlflow")
    return place


@pytest.fixture
def here(store, monkeypatch, caplog):
    monkeypatch.chdir(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    caplog.set_level(logging.INFO)
    return spool.Spool(store / ".mlflow", client.server())


def _record(dataset, metric="loss", files=()):
    child = Run("random-20", {}, {}, [])
    part = Part(child, "all", dataset, [(0, {metric: 1.0})], list(files))
    return Record(dataset, "abc", Run("toy pipeline", {}, {}, []), [part])


def _runs(dataset):
    seen = Tracker(dataset)
    return seen.client.search_runs([seen.experiment_id], "attributes.run_name = 'random-20'")


def test_a_file_is_told_as_it_was_when_the_record_was_kept(here, tmp_path):
    file = tmp_path / "gallery.txt"
    file.write_text("before")
    here.keep("1" * 32, _record("files", files=["own/gallery.txt"]), {"own/gallery.txt": file})
    file.write_text("after")
    here.tell()
    (run,) = _runs("files")
    (told,) = client.STORE.rglob("gallery.txt")
    assert told.read_text() == "before" and run.info.run_id in str(told)
    assert here.waiting() == [] and here.has("1" * 32) and not here.has("2" * 32)


def test_a_record_that_is_damaged_or_refused_is_set_aside_and_hinders_no_other(here, caplog):
    here.keep("3" * 32, _record("damaged"), {})
    here.keep("4" * 32, _record("refused", metric="a@b"), {})
    here.keep("5" * 32, _record("fine"), {})
    (damaged,) = here.folder.glob(f"*-{'3' * 32}/record.json")
    damaged.write_text(damaged.read_text()[:-20])
    here.tell()
    assert len(_runs("fine")) == 1 and here.waiting() == [] and here.fault is None
    aside = sorted(path.name.partition("-")[2] for path in here.folder.glob("*-*.*"))
    assert aside == ["3" * 32 + ".damaged", "4" * 32 + ".refused"]
    assert all(str(path) in caplog.text for path in here.folder.glob("*-*.*"))


def test_what_other_programs_leave_in_the_spool_hinders_no_record(here):
    here.folder.mkdir(parents=True, exist_ok=True)
    for name in (".DS_Store", ".nfs000000000001", "0 notes"):
        (here.folder / name).write_text("not ours")
    here.keep("9" * 32, _record("stray"), {})
    here.tell()
    assert here.fault is None and here.waiting() == [] and len(_runs("stray")) == 1
    assert (here.folder / ".DS_Store").read_text() == "not ours"


@pytest.mark.parametrize("scheme", ["file", "foo"])
def test_an_address_that_mlflow_cannot_use_leaves_every_record_waiting(
    tmp_path, monkeypatch, caplog, scheme
):
    monkeypatch.setenv(client.URI, f"{scheme}://{tmp_path}/runs")
    wrong = spool.Spool(tmp_path / ".mlflow", client.server())
    for key in "ab":
        wrong.keep(key * 32, _record("address"), {})
    wrong.tell()
    assert len(wrong.waiting()) == 2 and not list(wrong.folder.glob("*.refused"))
    assert wrong.fault and caplog.text.count("going on without MLflow") == 1


@pytest.mark.parametrize("name", ["a%20b", "what?b"])
def test_a_folder_whose_path_mlflow_cannot_open_is_named_once(tmp_path, monkeypatch, caplog, name):
    place = tmp_path / name / "work"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.delenv(client.URI, raising=False)
    odd = spool.Spool(place / ".mlflow", client.server())
    for key in "ab":
        odd.keep(key * 32, _record("path"), {})
        odd.tell()
    assert len(odd.waiting()) == 2 and caplog.text.count("rename the folder") == 1
    assert str(place / ".mlflow") in str(odd.fault)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_record_needs_stays_when_its_experiment_is_deleted_for_a_while(here, caplog):
    here.keep("6" * 32, _record("deleted"), {})
    here.tell()
    seen = Tracker("deleted")
    seen.client.delete_experiment(seen.experiment_id)
    here.keep("7" * 32, _record("deleted", metric="other"), {})
    here.tell()
    assert len(here.waiting()) == 1 and caplog.text.count("going on without MLflow") == 1
    here.tell()
    assert caplog.text.count("going on without MLflow") == 1
    seen.client.restore_experiment(seen.experiment_id)
    spool.Spool(here.folder.parents[1], client.server()).tell()
    assert here.waiting() == [] and len(_runs("deleted")) == 1


def test_what_cannot_be_kept_is_said_and_ends_no_run(here, tmp_path, caplog):
    (tmp_path / "spool").write_text("a file where the folder should be")
    full = spool.Spool(tmp_path, "local")
    full.keep("8" * 32, _record("kept"), {})
    full.tell()
    assert "could not keep" in caplog.text and not full.has("8" * 32)
