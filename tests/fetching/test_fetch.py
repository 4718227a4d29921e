"""A dataset in raw/: downloaded or taken, whole or not there, as it was the first time."""

import hashlib
import io
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.fetching import fetch, records
from tasks.fetching.download import Patience
from tasks.fetching.sources import KNOWN, File, Source, source_of
from tests.fetching.server import Behaviour, serving

PATIENCE = Patience(connect_seconds=2.0, read_seconds=0.3, num_tries=2, pause_seconds=0.01)
FILES = {"captions.json": b"[1]", "pictures/a.jpg": b"a" * 70_000, "pictures/b.jpg": b"b"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _zip(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


DATA = _zip(FILES)


def _fetch(how, **more):
    with serving(how) as address:
        file = File(f"{address}/pets.zip?key=secret", **more)
        return fetch.fetch(Source("pets", "", (file,)), PATIENCE)


def _there(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_file_is_fetched_once_and_its_digest_is_kept_without_the_query(here):
    done = _fetch(Behaviour(DATA))
    assert done.is_new and _there(here / "raw/pets") == FILES
    ((url, record),) = json.loads((here / "raw/digests.json").read_text()).items()
    digest = hashlib.sha256(b"key=secret").hexdigest()
    assert url.endswith(f"/pets.zip?sha256={digest}") and record["bytes"] == len(DATA)
    assert sorted(path.name for path in (here / "raw").iterdir()) == [
        ".partial",
        "digests.json",
        "pets",
    ]
    assert not list((here / "raw/.partial").iterdir())
    how = Behaviour(DATA)
    assert not _fetch(how).is_new and not how.asked


def test_another_content_than_recorded_is_refused_and_removed(here):
    how = Behaviour(DATA)
    with serving(how) as address:
        source = Source("pets", "", (File(f"{address}/pets.zip"),))
        fetch.fetch(source, PATIENCE)
        (here / "raw/pets").rename(here / "old")
        how.data = _zip({"captions.json": b"[2]"})
        with pytest.raises(ValueError, match=r"recorded is .*raw/digests\.json"):
            fetch.fetch(source, PATIENCE)
        assert not (here / "raw/pets").exists()
        assert not [path for path in (here / "raw/.partial").rglob("*") if path.is_file()]
        how.data = DATA
        assert fetch.fetch(source, PATIENCE).is_new


@pytest.mark.parametrize("digest", ["md5:" + "0" * 32, "sha256:" + "0" * 64])
def test_another_content_than_stated_is_refused_and_removed(here, digest):
    with pytest.raises(ValueError, match=r"pets\.zip\?sha256=\w{64}: received .* expected is 0+"):
        _fetch(Behaviour(DATA), digest=digest)
    assert not (here / "raw/pets").exists() and not (here / "raw/digests.json").exists()
    assert not [path for path in (here / "raw/.partial").rglob("*") if path.is_file()]


def test_a_length_that_is_too_short_is_seen_by_the_archive(here):
    how = Behaviour(DATA, stated=str(len(DATA) - 9))
    with pytest.raises(ValueError, match=r"pets\.zip: the archive is damaged"):
        _fetch(how)
    assert not (here / "raw/pets").exists() and not (here / "raw/.partial/pets/whole").exists()


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>log in", DATA[:-9], DATA[:-40]])
def test_what_is_refused_before_its_digest_is_known_is_asked_for_again(here, data):
    how = Behaviour(data, stated="")
    with serving(how) as address:
        source = Source("pets", "", (File(f"{address}/pets.zip"),))
        with pytest.raises(ValueError, match="is removed, and the next run asks the server again"):
            fetch.fetch(source, PATIENCE)
        assert not (here / "raw/digests.json").exists()
        assert not [path for path in (here / "raw/.partial").rglob("*") if path.is_file()]
        how.data = DATA
        assert fetch.fetch(source, PATIENCE).is_new
    assert len(how.asked) == 2 and _there(here / "raw/pets") == FILES
    (record,) = json.loads((here / "raw/digests.json").read_text()).values()
    assert record == {"sha256": hashlib.sha256(DATA).hexdigest(), "bytes": len(DATA)}


def test_what_lacks_a_part_of_the_layout_is_asked_for_again(here):
    how = Behaviour(DATA)
    with serving(how) as address:
        source = Source("pets", "", (File(f"{address}/pets.zip"),), ("captions.csv",))
        with pytest.raises(ValueError, match=r"lacks captions\.csv.*the next run asks the server"):
            fetch.fetch(source, PATIENCE)
    assert not (here / "raw/digests.json").exists() and not (here / "raw/pets").exists()
    assert not [path for path in (here / "raw/.partial").rglob("*") if path.is_file()]


def test_what_is_refused_though_its_digest_is_stated_is_not_asked_for_again(here):
    data = b"<!DOCTYPE html><html>log in"
    how = Behaviour(data)
    with serving(how) as address:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        source = Source("pets", "", (File(f"{address}/pets.zip", digest),))
        for _ in range(2):
            with pytest.raises(ValueError, match="is a web page") as caught:
                fetch.fetch(source, PATIENCE)
            assert "the next run" not in str(caught.value)
    assert len(how.asked) == 1 and not (here / "raw/digests.json").exists()


def test_files_of_one_name_from_two_addresses_are_two_files(here):
    other = {"other.json": b"[2]"}
    with serving(Behaviour(DATA)) as one, serving(Behaviour(_zip(other))) as two:
        files = (File(f"{one}/pets.zip?key=secret"), File(f"{two}/pets.zip"))
        fetch.fetch(Source("pets", "", files), PATIENCE)
    assert _there(here / "raw/pets") == {**FILES, **other}


def test_no_name_of_a_kept_file_has_the_query(here):
    how = Behaviour(DATA, breaks=[66_000, 0, 0])
    with pytest.raises(OSError, match="the same command goes on"):
        _fetch(how)
    files = [path for path in (here / "raw").rglob("*") if path.is_file()]
    assert len(files) == 2 and not [path for path in files if "secret" in path.name]
    assert not [path for path in files if b"secret" in path.read_bytes()]


def test_addresses_that_differ_in_the_query_alone_have_a_record_each(here):
    other = {"other.json": b"[2]"}
    how = Behaviour(DATA)
    with serving(how) as address:
        for number, how.data in ((1, DATA), (2, _zip(other))):
            source = Source(f"pets{number}", "", (File(f"{address}/dl?id={number}"),))
            fetch.fetch(source, PATIENCE)
    known = json.loads((here / "raw/digests.json").read_text())
    assert len(known) == 2 and _there(here / "raw/pets2") == other
    assert not [url for url in known if "id=" in url]


def test_each_of_many_fetches_at_once_has_its_record(here):
    with serving(Behaviour(DATA)) as address, ThreadPoolExecutor(8) as pool:
        sources = []
        for number in range(8):
            sources.append(Source(f"pets{number}", "", (File(f"{address}/{number}.zip"),)))
        done = list(pool.map(lambda source: fetch.fetch(source, PATIENCE), sources))
    assert [one.is_new for one in done] == [True] * 8
    assert len(json.loads((here / "raw/digests.json").read_text())) == 8


def test_what_another_run_recorded_meanwhile_is_compared(here):
    records.keep({"https://x.org/a.zip": {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(records.AnotherFile, match="recorded is"):
        records.keep({"https://x.org/a.zip": {"sha256": "1" * 64, "bytes": 1}})


def test_what_came_before_a_break_is_gone_on_from_in_the_next_run(here):
    how = Behaviour(DATA, breaks=[66_000, 0, 0, 0, 0])
    with serving(how) as address:
        source = Source("pets", "", (File(f"{address}/pets.zip"),))
        with pytest.raises(OSError, match="the same command goes on"):
            fetch.fetch(source, PATIENCE)
        assert not (here / "raw/pets").exists()
        how.breaks.clear()
        fetch.fetch(source, PATIENCE)
    assert how.asked[-1][0] == "bytes=65536-" and _there(here / "raw/pets") == FILES


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_folder_that_a_user_has_is_copied_or_linked_to(here, is_linked):
    have = here / "have"
    for name in ("dataset_flickr8k.json", "images-train.tar", "notes.txt"):
        have.mkdir(exist_ok=True)
        (have / name).write_text(name)
    done = fetch.take(KNOWN["flickr8k"], have, is_linked=is_linked)
    assert sorted(_there(done.folder)) == ["dataset_flickr8k.json", "images-train.tar"]
    links = [path.is_symlink() for path in done.folder.iterdir()]
    assert links == [is_linked, is_linked]
    again = fetch.take(KNOWN["flickr8k"], have, is_linked=not is_linked)
    assert (again.is_new, again.has_links) == (False, is_linked)
    assert (have / "notes.txt").is_file()


def test_data_of_ones_own_are_taken_whole(here):
    for name, data in FILES.items():
        (here / "have" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "have" / name).write_bytes(data)
    source = source_of("mine", None, has_folder=True)
    assert _there(fetch.take(source, here / "have", is_linked=False).folder) == FILES


@pytest.mark.parametrize("is_linked", [False, True])
def test_hidden_files_of_a_user_stay_out_and_are_counted(here, is_linked):
    hidden = (".git/config", ".git/objects/a", ".env", "pictures/.a.jpg.swp", "pictures/.x/b")
    for name in ("captions.json", "pictures/a.jpg", *hidden):
        (here / ".have" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / ".have" / name).write_text(name)
    (here / ".have/.link").symlink_to("nothing")
    source = source_of("mine", None, has_folder=True)
    done = fetch.take(source, fetch.Path(".have"), is_linked=is_linked)
    assert sorted(_there(done.folder)) == ["captions.json", "pictures/a.jpg"]
    assert done.left_out == {"hidden file": 3, "hidden folder with all that is in it": 2}


def test_a_folder_of_hidden_files_alone_is_refused(here):
    (here / "have").mkdir()
    (here / "have/.a.jpg").write_text("x")
    with pytest.raises(ValueError, match="have holds no file besides 1 x hidden file"):
        fetch.take(source_of("mine", None, has_folder=True), here / "have", is_linked=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda have: None, "lacks dataset_coco.json, train2014, val2014; received nothing"),
        (lambda have: have.rmdir(), "there is no folder 'have'"),
        (lambda have: os.mkfifo(have / "train2014/pipe.jpg"), "pipe.jpg is a link to a folder"),
        (lambda have: (have / "val2014/l").symlink_to(".."), "l is a link to a folder"),
        (lambda have: (have / "val2014/l").symlink_to("none"), "l is a link to a folder or to no"),
    ],
)
def test_a_folder_that_cannot_be_taken_is_one_message(here, make, message):
    have = here / "have"
    have.mkdir()
    if "lacks" not in message and "there is no" not in message:
        for name in ("train2014", "val2014"):
            (have / name).mkdir()
        (have / "dataset_coco.json").write_text("{}")
    make(have)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fetch.take(KNOWN["coco"], fetch.Path("have"), is_linked=False)
    assert not (here / "raw/coco").exists()


def test_a_folder_without_a_file_is_refused(here):
    (here / "have/sub").mkdir(parents=True)
    with pytest.raises(ValueError, match="have holds no file"):
        fetch.take(source_of("mine", None, has_folder=True), here / "have", is_linked=True)


def test_a_folder_around_raw_is_refused(here):
    (here / "raw").mkdir()
    with pytest.raises(ValueError, match="holds raw/ or lies in it"):
        fetch.take(source_of("mine", None, has_folder=True), here, is_linked=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda target: target.write_text("mine"),
        lambda target: target.symlink_to("nothing"),
        lambda target: os.mkfifo(target),
    ],
)
def test_a_target_that_is_no_folder_is_refused_before_anything_is_asked(here, make):
    (here / "raw").mkdir()
    make(here / "raw/pets")
    how = Behaviour(DATA)
    with pytest.raises(ValueError, match="raw/pets is there and is no folder"):
        _fetch(how)
    assert not how.asked and [path.name for path in (here / "raw").iterdir()] == ["pets"]


def test_nobody_gives_flickr30k_without_its_form():
    with pytest.raises(ValueError, match=r"needed are dataset_flickr30k\.json, flickr30k-images"):
        fetch.fetch(KNOWN["flickr30k"])


@pytest.mark.parametrize("text", ["{", "[]", '{"a": ' * 5000])
def test_a_damaged_note_is_named(here, text):
    (here / "raw").mkdir()
    (here / "raw/digests.json").write_text(text)
    how = Behaviour(DATA)
    with pytest.raises(ValueError, match=r"raw/digests\.json"):
        _fetch(how)
    assert not how.asked
