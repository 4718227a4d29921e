"""One file from a server that stalls, breaks off, refuses ranges, and lies about lengths."""

import random

import pytest

from tasks.fetching.download import Patience, download
from tests.fetching.server import Behaviour, serving

DATA = random.Random(0).randbytes(700_001)
PATIENCE = Patience(connect_seconds=2.0, read_seconds=0.3, num_tries=3, pause_seconds=0.01)
HALF = 400_000


def _fetch(how, folder, is_checked=False):
    seen = []
    with serving(how) as address:
        download(
            f"{address}/file.bin",
            folder / "file.bin",
            is_checked=is_checked,
            progress=lambda done, total: seen.append((done, total)),
            patience=PATIENCE,
        )
    assert sorted(path.name for path in folder.iterdir()) == ["file.bin"]
    return (folder / "file.bin").read_bytes()


@pytest.mark.parametrize(
    ("how", "num_ranges"),
    [
        (Behaviour(DATA), 0),
        (Behaviour(DATA, breaks=[HALF]), 1),
        (Behaviour(DATA, breaks=[200_000, 200_000, 200_000]), 3),
        (Behaviour(DATA, stalls=[HALF]), 1),
        (Behaviour(DATA, tag="", modified="Mon, 01 Jan 2024 00:00:00 GMT", breaks=[HALF]), 1),
        (Behaviour(DATA, breaks=[HALF], has_ranges=False), 1),
        (Behaviour(DATA, codes=[503, 429]), 0),
        (Behaviour(DATA, codes=[302]), 0),
        (Behaviour(DATA, breaks=[HALF], range_from=17), 1),
        (Behaviour(DATA, stated=""), 0),
        (Behaviour(b""), 0),
    ],
    ids=[
        "at once",
        "breaks off",
        "breaks off three times",
        "stalls",
        "a date for a version",
        "refuses ranges",
        "busy",
        "redirects",
        "begins elsewhere",
        "no length",
        "empty",
    ],
)
def test_the_file_is_whole(how, num_ranges, tmp_path):
    assert _fetch(how, tmp_path) == how.data
    assert sum(bool(part) for part, _ in how.asked) == num_ranges


@pytest.mark.parametrize("is_blind", [False, True])
def test_a_file_that_changed_meanwhile_begins_again(is_blind, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * HALF)
    note = '{"url": "URL/file.bin", "version": "\\"old\\""}'
    how = Behaviour(DATA, is_blind=is_blind)
    with serving(how) as address:
        (tmp_path / "file.bin.part.json").write_text(note.replace("URL", address))
        target = tmp_path / "file.bin"
        download(
            f"{address}/file.bin",
            target,
            is_checked=False,
            progress=lambda done, total: None,
            patience=PATIENCE,
        )
    assert target.read_bytes() == DATA
    assert how.asked == [(f"bytes={HALF}-", '"old"'), ("", "")][: 1 + is_blind]


@pytest.mark.parametrize("is_checked", [False, True])
def test_without_a_version_only_a_digest_allows_to_go_on(is_checked, tmp_path):
    how = Behaviour(DATA, tag='W/"weak"', breaks=[HALF])
    assert _fetch(how, tmp_path, is_checked) == DATA
    assert bool(how.asked[1][0]) == is_checked


def test_a_part_that_is_whole_already_is_taken(tmp_path):
    how = Behaviour(DATA, stalls=[len(DATA) - 1], breaks=[])
    how.stated = str(len(DATA) + 1)
    with pytest.raises(OSError, match="cannot be had"):
        _fetch(how, tmp_path)
    how = Behaviour(DATA)
    with serving(how) as address:
        (tmp_path / "file.bin.part").write_bytes(DATA)
        note = f'{{"url": "{address}/file.bin", "version": "\\"one\\""}}'
        (tmp_path / "file.bin.part.json").write_text(note)
        download(
            f"{address}/file.bin",
            tmp_path / "file.bin",
            is_checked=False,
            progress=lambda done, total: None,
            patience=PATIENCE,
        )
    assert (tmp_path / "file.bin").read_bytes() == DATA
    assert [part for part, _ in how.asked] == [f"bytes={len(DATA)}-"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Behaviour(DATA, breaks=[HALF] * 9, has_ranges=False), "3 tries brought nothing more"),
        (Behaviour(DATA, stated=str(len(DATA) + 5), breaks=[HALF] * 9), "cannot be had"),
        (Behaviour(DATA, codes=[500] * 9), "the server answers 500"),
        (Behaviour(DATA, codes=[404]), "the server answers 404 Not Found"),
        (Behaviour(DATA, codes=[403]), "the server answers 403 Forbidden"),
        (Behaviour(DATA, codes=[206]), "the server answers 206"),
        (Behaviour(DATA, codes=[302] * 99), "cannot be had"),
        (Behaviour(DATA, headers={"Content-Encoding": "gzip"}), "the server sends it encoded"),
        (Behaviour(DATA, stated=str(1 << 60)), "too little disk space"),
    ],
)
def test_what_cannot_be_had_is_one_message_and_no_file(how, message, tmp_path):
    with pytest.raises((OSError, ValueError), match=message):
        _fetch(how, tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_a_redirect_to_an_address_with_a_password_does_not_print_it(tmp_path):
    place = "http://me:se[cret@127.0.0.1:1/file.bin?key=secret"
    how = Behaviour(DATA, codes=[302], location=place)
    with pytest.raises(ValueError, match="cannot be had") as caught:
        _fetch(how, tmp_path)
    assert "cret" not in str(caught.value) and "me:" not in str(caught.value)


def test_nobody_answers(tmp_path):
    with serving(Behaviour(DATA)) as address:
        pass
    with pytest.raises(OSError, match="3 tries brought nothing more than 0 bytes") as caught:
        download(
            f"{address}/file.bin?key=a)secret",
            tmp_path / "file.bin",
            is_checked=False,
            progress=lambda done, total: None,
            patience=PATIENCE,
        )
    assert "secret" not in str(caught.value) and "refused" in str(caught.value)
