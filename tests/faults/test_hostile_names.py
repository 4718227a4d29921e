"""Names of files and folders: forms of Unicode, separators, odd letters, and what leads outside."""

import os
import unicodedata
from pathlib import Path

import pytest

from tests.faults.hostile import Case, check, reader
from tests.faults.hostile_datasets import TEXT, good, karpathy, pairs, parquet, shards, tar

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))


def _of(name, listed, stored=None, refused=(), accepted=None):
    """A case in which the json lists one name, and the folder holds another, or none."""

    def make(raw):
        settings = karpathy(raw, {listed: ["a cat"]})
        for one in [stored] if isinstance(stored, str | bytes) else stored or []:
            path = os.path.join(os.fsencode(raw / "images"), os.fsencode(one))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(os.fsdecode(path)).write_bytes(good())
        return settings

    found = {"names": ["train.png", "also.png", listed]} if accepted is None else accepted
    return Case(name, make, ("d.json", *refused) if refused else (), {} if refused else found)


def _same(name, listed):
    return _of(name, listed, listed)


def _settings(name, words, options, make=None):
    """A case of options that name folders and files."""

    def write(raw):
        karpathy(raw, {})
        if make:
            make(raw)
        base = {"annotations": "d.json", "images": ["images"], "restval_is_train": False}
        return reader("karpathy", **{**base, **options})

    return Case(name, write, words, {} if words else {"num_train": 2})


OUTSIDE = ("image name", "relative path")
CASES = [
    _of("nfd on the disk", NFC, NFD),
    _of("nfc on the disk", NFD, NFC),
    _of("both forms on the disk", NFC, [NFC, NFD]),
    _of("backslash in the list", "a\\odd.png", "a/odd.png"),
    _same("backslash in a name", "a\\odd.png"),
    _same("blanks", "my  odd picture.png"),
    _same("umlauts", "\u00e4\u00f6\u00fc\u00df.png"),
    _same("emoji", "\U0001f436.png"),
    _same("right to left", "\u05db\u05dc\u05d1.png"),
    _same("mark that turns text", "a\u202eb.png"),
    _same("line break", "o\nd.png"),
    _same("escape of a terminal", "o\x1b[31md.png"),
    _same("tab", "o\td.png"),
    _same("leading dash", "-rf.png"),
    _same("leading blank", " odd.png"),
    _same("trailing blank", "odd.png "),
    _same("trailing dot", "odd.png."),
    _same("two dots inside", "a..b.png"),
    _same("leading dots", "..odd.png"),
    _same("hidden", ".odd.png"),
    _same("star", "*.png"),
    _same("brackets", "[a-z].png"),
    _same("question mark", "a?.png"),
    _same("dollar", "$HOME.png"),
    _same("tilde", "~.png"),
    _same("percent", "%41.png"),
    _same("quotes", "\"'`.png"),
    _same("hash", "a#0.png"),
    _same("semicolon", "a;rm -rf.png"),
    _same("device of Windows", "con.png"),
    _same("no ending", "odd"),
    _same("255 bytes", "x" * 251 + ".png"),
    _same("deep folders", "d/" * 40 + "odd.png"),
    _of("dot and slash", "./odd.png", "odd.png"),
    _of("folder named twice", "images/odd.png", "odd.png"),
    _of("two slashes", "a//odd.png", "a/odd.png"),
    _of("file of bytes that are no text", "odd.png", ["odd.png", b"\xff\xfe.png"]),
    _of("other case", "ODD.png", "odd.png", ("'ODD.png' is missing", "'odd.png'")),
    _of("other ending", "odd.jpg", "odd.png", ("nearest name there is 'odd.png'",)),
    _of("blank too many", "odd.png ", "odd.png", ("nearest name there is 'odd.png'",)),
    _of("missing with an escape", "\x1b[31mred.png", None, ("\\x1b[31mred.png",)),
    _of("missing with a line break", "a\nerror: b.png", None, ("a\\nerror",)),
    _of("missing with a mark that turns text", "a\u202eb.png", None, ("\\u202e",)),
    _of("missing with 5,000 letters", "x" * 5000 + ".png", None, ("is missing",)),
    _of("missing with 10 MB", "x" * (10 << 20) + ".png", None, ("is missing",)),
    _of("lone surrogate", "\ud800.png", None, (*OUTSIDE, "\\ud800")),
    _of("zero byte", "a\0b.png", None, OUTSIDE),
    _of("empty", "", None, OUTSIDE),
    _of("dot", ".", None, OUTSIDE),
    _of("two dots", "..", None, OUTSIDE),
    _of("upwards", "../odd.png", None, OUTSIDE),
    _of("upwards inside", "a/../../odd.png", None, OUTSIDE),
    _of("upwards with backslashes", "..\\odd.png", None, OUTSIDE),
    _of("absolute", "/etc/passwd", None, OUTSIDE),
    _of("drive of Windows", "C:\\odd.png", None, OUTSIDE),
    _of("share of Windows", "\\\\host\\odd.png", None, OUTSIDE),
    _of("name there twice", "train.png", None, ("train.png", "second time")),
    _of("two spellings of one file", "./train.png", None, ("train.png",)),
    _settings("no folder", ("'gone'", "path"), {"path": "gone"}),
    _settings("folder that is a file", ("'raw/d.json'",), {"path": "raw/d.json"}),
    _settings("folder with blanks and umlauts", (), {"path": "raw \u00e4"},
              lambda raw: raw.with_name("raw \u00e4").symlink_to("raw")),
    _settings("no annotations", ("'raw/x.json'", "images"), {"annotations": "x.json"}),
    _settings("annotations that are a folder", ("raw/images",), {"annotations": "images"}),
    _settings("annotations of 10 GB", ("x.json", "10,737,418,240 bytes"),
              {"annotations": "x.json"}, lambda raw: os.truncate(_new(raw / "x.json"), 10 << 30)),
    _settings("annotations that are a device", ("x.json",), {"annotations": "x.json"},
              lambda raw: (raw / "x.json").symlink_to("/dev/zero")),
    _settings("annotations that are a fifo", ("x.json",), {"annotations": "x.json"},
              lambda raw: os.mkfifo(raw / "x.json")),
    _settings("annotations of 300 letters", ("xxx",), {"annotations": "x" * 300}),
    _settings("no images", ("`images`", "empty"), {"images": []}),
    _settings("images upwards", ("`images`", "../x"), {"images": ["../x"]}),
    _settings("images absolute", ("`images`", "/etc"), {"images": ["/etc"]}),
    _settings("images that match nothing", ("`images`", "matches nothing"), {"images": ["x*"]}),
    _settings("images that are zip", ("x.zip", "zip archive"), {"images": ["x.zip"]},
              lambda raw: (raw / "x.zip").write_bytes(b"PK\3\4" + bytes(99))),
    Case("path of 5,000 letters in a table", lambda raw: parquet(
        raw, {"image": ["x" * 5000, "y.png"], "caption": ["a", "b"]}), ("train.parquet", "row 0")),
    Case("path with a zero byte in a table", lambda raw: parquet(
        raw, {"image": ["a\0b", "y.png"], "caption": ["a", "b"]}), ("train.parquet", "row 0")),
    Case("path through a file in a table", lambda raw: parquet(
        raw, {"image": ["train.parquet/x", "y"], "caption": ["a", "b"]}), ("train.parquet", "row")),
    Case("name of 100,000 letters in a table", lambda raw: parquet(
        raw, {"image": [good()] * 2, "caption": [TEXT] * 2, "n": ["x" * 100_000, "y"]}, name="n"),
        (), {"num_train": 2}),
    Case("escape in a name of a shard", lambda raw: shards(
        raw, tar([*pairs(2), ("\x1b[31m.png", b"")])), ("train.tar", "\\x1b")),
]  # fmt: skip


def _new(path):
    path.touch()
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_name(case, tmp_path):
    check(case, Path(tmp_path))
