"""Annotation files and tables that are damaged, foreign, of other types, or odd."""

import gzip
import json
from pathlib import Path

import pytest

from tests.faults.hostile import Case, check, reader
from tests.faults.hostile_datasets import SPLITS, TEXT, blip, flickr_table, good, karpathy


def _json(*entries, **more):
    """Karpathy's json of the good pictures, and more entries of train."""
    rows = [
        {"filename": f"{name}.png", "split": split, "sentences": [{"raw": TEXT}]}
        for name, split in SPLITS.items()
    ]
    return {"images": [*rows, *entries], **more}


ENTRY = {"filename": "odd.png", "split": "train", "sentences": [{"raw": "a cat"}]}
WHOLE = json.dumps(_json(ENTRY)).encode()


def _raw(value):
    return json.dumps(_json({**ENTRY, "sentences": [{"raw": value}]})).encode()


def _of(name, data, refused=(), accepted=None, *, file="d.json", where=None):
    """A case of Karpathy's json: its bytes; `where` is what the message names in place of it."""

    def make(raw):
        karpathy(raw, {})
        (raw / "images" / "odd.png").write_bytes(good())
        (raw / file).write_bytes(data)
        return reader("karpathy", annotations=file, images=["images"], restval_is_train=False)

    return Case(name, make, (where or file, *refused) if refused else (), accepted or {})


def _text(name, text):
    """A caption that is right as it stands."""
    return _of(name, _raw(text), accepted={"captions": [TEXT, TEXT, text]})


THREE = {"captions": [TEXT, TEXT, "a cat"]}
DEEP = b'{"images": ' + b"[" * 200_000
KARPATHY = [
    _of("json", WHOLE, accepted=THREE),
    _of("json with a mark", b"\xef\xbb\xbf" + WHOLE, accepted=THREE),
    _of("json in utf-16", WHOLE.decode().encode("utf-16"), ("UTF-16",)),
    _of("json in utf-32", WHOLE.decode().encode("utf-32-be"), ("d.json",)),
    _of("json in latin-1", WHOLE.replace(b"cat", b"caf\xe9"), ("is not UTF-8",)),
    _of("json with a zero byte", WHOLE.replace(b"cat", b"c\0t"), ("malformed JSON",)),
    _of("json with an escaped zero", _raw("a\0cat"), ("zero bytes",)),
    _of("json cut", WHOLE[:-20], ("malformed JSON",)),
    _of("json twice", WHOLE + WHOLE, ("malformed JSON",)),
    _of("json in single quotes", str(_json(ENTRY)).encode(), ("malformed JSON",)),
    _of("empty file", b"", ("malformed JSON",)),
    _of("zeros", bytes(5000), ("zero bytes alone",)),
    _of("nested lists", DEEP, ("nested too deeply",)),
    _of("nested objects", b'{"images": ' + b'{"a":' * 200_000, ("nested too deeply",)),
    _of("null", b"null", ("NoneType",)),
    _of("a number of 10^6 digits", b"9" * 1_000_000, ("d.json",)),
    _of("a list", b"[1, 2]", ("d.json", "an object")),
    _of("images an object", b'{"images": {}}', ("dict",)),
    _of("images of numbers", b'{"images": [1, 2, 3]}', ("images[0]", "int 1")),
    _of("no images", b'{"images": []}', ("has no images",), where="'train'"),
    _of("file name a number", json.dumps(_json({**ENTRY, "filename": 7})).encode(), ("int 7",)),
    _of("file name null", json.dumps(_json({**ENTRY, "filename": None})).encode(), ("NoneType",)),
    _of("file name NaN", WHOLE.replace(b'"odd.png"', b"NaN"), ("float nan",)),
    _of("split unknown", json.dumps(_json({**ENTRY, "split": "dev"})).encode(), ("'dev'",)),
    _of("split a list", json.dumps(_json({**ENTRY, "split": []})).encode(), ("split", "list")),
    _of("no sentences", json.dumps(_json({**ENTRY, "sentences": []})).encode(), ("no captions",)),
    _of("sentences text", json.dumps(_json({**ENTRY, "sentences": "x"})).encode(), ("str 'x'",)),
    _of("raw null", _raw(None), ("NoneType",)),
    _of("raw a number", _raw(7), ("int 7",)),
    _of("raw NaN", _raw(float("nan")), ("float nan",)),
    _of("raw a list", _raw(["a", "b"]), ("list",)),
    _of("raw blank", _raw(" \t "), ("caption",)),
    _of("raw of dots", _raw("..."), ("caption",)),
    _of("raw of invisible letters", _raw("\u200b\u200b\ufeff"), ("caption",)),
    _of("raw a lone surrogate", WHOLE.replace(b"a cat", b"a \\ud800"), ("\\ud800",)),
    _of("raw a list as text", _raw('["a dog", "two"]'), ("written as text",)),
    _of("coco's own json", json.dumps(_json(annotations=[])).encode(), ("COCO's own json",)),
    _of("lines of json", b'{"a": 1}\n{"a": 2}\n', ("JSON lines",)),
    _of("web page", b"<!DOCTYPE html><html>", ("a web page",)),
    _of("pointer of git-LFS", b"version https://git-lfs.github.com/spec/v1\n", ("git lfs pull",)),
    _of("zip", b"PK\3\4" + bytes(99), ("zip archive",)),
    _of("gzip", gzip.compress(WHOLE), accepted=THREE, file="d.json.gz"),
    _of("gzip called json", gzip.compress(WHOLE), ("gzip data",)),
    _of("json called gzip", WHOLE, ("cannot be read",), file="d.json.gz"),
    _of("gzip cut", gzip.compress(WHOLE)[:-30], ("cannot be read",), file="d.json.gz"),
    _of("gzip with a wrong checksum", gzip.compress(WHOLE)[:-8] + bytes(8), ("cannot be read",),
        file="d.json.gz"),
    _of("gzip of 2 GB of blanks", gzip.compress(b" " * (1 << 20)) * 2000, ("unpacks to more",),
        file="d.json.gz"),
    _of("same key twice", WHOLE.replace(b'"split": "train", "sentences": [{"raw": "a cat"}]',
        b'"split": "val", "split": "train", "sentences": [{"raw": "a cat"}]'),
        accepted=THREE),
    _of("unknown keys", json.dumps(_json({**ENTRY, "x": {"y": [1]}})).encode(), accepted=THREE),
    _of("caption of 10 MB", _raw("a " * (5 << 20)), accepted={"num_captions": 3}),
    _of("word of 10 MB", _raw("a" * (10 << 20)), accepted={"num_captions": 3}),
    _of("100,000 captions of one image", json.dumps(_json(
        {**ENTRY, "sentences": [{"raw": "a"}] * 100_000})).encode(),
        accepted={"num_captions": 100_002}),
    _text("caption with quotes", 'she said "hi", \\n'),
    _text("caption with tabs and lines", "a\tb\nc"),
    _text("caption of emoji", "\U0001f436\u200d\U0001f9ba"),
    _text("caption from right to left", "\u05db\u05dc\u05d1"),
    _text("caption with escapes of a terminal", "\x1b[31mred\x1b[0m"),
    _text("caption like a formula", "=1+1"),
    _text("caption like a page", "<script>alert(1)</script>"),
    _text("caption with blanks around", "  a cat  "),
]  # fmt: skip


def _table(name, rows, refused=(), accepted=None, *, ending="txt", names=b""):
    """A case of a table: what follows the rows of the good pictures."""

    def make(raw):
        (raw / "images").mkdir()
        (raw / "images" / "odd.jpg").write_bytes(good())
        return flickr_table(raw, rows, ending, names)

    words = (f"table.{ending}", *refused) if refused else ()
    return Case(name, make, words, accepted or {})


def _rows(form, head=""):
    """The rows of the good pictures, as bytes."""
    return (head + "".join(form.format(name=name, text=TEXT) for name in SPLITS)).encode()


TOKEN = _rows("{name}.jpg#0\t{text}\n")
KAGGLE = _rows("{name}.jpg,{text}\n", "image,caption\n")
PIPES = _rows("{name}.jpg| 0| {text}\n", "image_name| comment_number| comment\n")
ODD_NAMES = b"train.jpg\nodd.jpg\n"
TWO = {"captions": [TEXT, "a cat"]}
FLICKR = [
    _table("token", TOKEN + b"odd.jpg#0\ta cat\n", (), TWO, names=ODD_NAMES),
    _table("token with CRLF", TOKEN.replace(b"\n", b"\r\n"), (), {"num_train": 2}),
    _table("token with a mark", b"\xef\xbb\xbf" + TOKEN, (), {"num_train": 2}),
    _table("token in utf-16", TOKEN.decode().encode("utf-16"), ("UTF-16",)),
    _table("token with a zero byte", TOKEN + b"also.jpg#1\ta\0b\n", ("zero bytes",)),
    _table("token without a tab", TOKEN + b"odd.jpg#0 a cat\n", ("line 5",)),
    _table("token without a number", TOKEN + b"odd.jpg\ta cat\n", ("line 5",)),
    _table("token with a negative number", TOKEN + b"odd.jpg#-1\ta cat\n", ("'-1'",)),
    _table("token number of 5,000 digits", TOKEN + b"odd.jpg#" + b"9" * 5000 + b"\ta\n",
           ("line 5",)),
    _table("token number twice", TOKEN + b"also.jpg#0\ta cat\n", ("twice",)),
    _table("token without a caption", TOKEN + b"also.jpg#1\t\n", ("caption",)),
    _table("name without captions", TOKEN, ("odd.jpg",), names=ODD_NAMES),
    _table("csv of kaggle", KAGGLE + b'odd.jpg,"a cat"\n', (), TWO, names=ODD_NAMES),
    _table("csv with commas in quotes", KAGGLE + b'odd.jpg,"a, ""b"", c"\n', (),
           {"captions": [TEXT, 'a, "b", c']}, names=ODD_NAMES),
    _table("csv with a line in quotes", KAGGLE + b'odd.jpg,"a\nb"\n', (),
           {"captions": [TEXT, "a\nb"]}, names=ODD_NAMES),
    _table("csv with an open quote", KAGGLE + b'odd.jpg,"a\n' + b"x\n" * 5000, ("line 6",)),
    _table("csv with one cell", KAGGLE + b"odd.jpg\n", ("line 6",)),
    _table("csv of other columns", b"a,b,c\n1,2,3\n", ("line 1", "the reader `csv`")),
    _table("csv of pipes", PIPES, (), {"num_train": 2}, ending="csv"),
    _table("csv of pipes with a number of words", PIPES + b"odd.jpg| x| a\n", ("'x'",),
           ending="csv"),
    _table("line of 10 MB", TOKEN + b"odd.jpg#0\t" + b"a" * (10 << 20) + b"\n", (),
           {"num_captions": 2}, names=ODD_NAMES),
    _table("million blank lines", TOKEN + b"\n" * 1_000_000, (), {"num_train": 2}),
    _table("zeros", bytes(4096), ("zero bytes alone",)),
    _table("empty table", b"", ("train.jpg", "no captions")),
]  # fmt: skip


def _blip(name, rows, refused=(), accepted=None):
    def make(raw):
        (raw / "images").mkdir()
        (raw / "images" / "odd.png").write_bytes(good())
        data = (
            rows
            if isinstance(rows, bytes)
            else json.dumps(
                [*({"image": f"{one}.png", "caption": TEXT} for one in ("train", "also")), *rows]
            ).encode()
        )
        return blip(raw, data)

    return Case(name, make, ("train.json", *refused) if refused else (), accepted or {})


BLIP = [
    _blip("rows of blip", [{"image": "odd.png", "caption": "a cat"}], (), THREE),
    _blip("caption a list", [{"image": "odd.png", "caption": ["a"]}], ("list",)),
    _blip("caption null", [{"image": "odd.png", "caption": None}], ("NoneType",)),
    _blip("no caption", [{"image": "odd.png"}], ("'caption' is missing",)),
    _blip("row a text", ["odd.png"], ("str 'odd.png'",)),
    _blip("two ids", [{"image": "odd.png", "caption": "a", "image_id": number}
          for number in (1, 2)], ("image_id",)),
    _blip("karpathy's json", json.dumps(_json()).encode(), ("a json of Karpathy",)),
    _blip("an object", b"{}", ("dict",)),
    _blip("captions of kaggle", b"image,caption\na.jpg,x\n", ("captions.txt of Kaggle",)),
    _blip("150,000 rows", [{"image": "odd.png", "caption": "a"}] * 150_000, (),
          {"num_captions": 150_002}),
]  # fmt: skip


CASES = [*KARPATHY, *FLICKR, *BLIP]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_annotation_file(case, tmp_path):
    check(case, Path(tmp_path))
