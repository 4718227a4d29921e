"""COCO's json, tables of text and plain folders: damaged, foreign, of other types, or odd."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.hostile import Case, check, reader
from tests.faults.hostile_datasets import TEXT, coco, folders, good, shards, table, tar

SPLITS = ("train", "val", "test")
TWO = {"captions": [TEXT, "a cat"]}


def _content(image=None, row=None, **more):
    """COCO's json of one good picture and another one, whose entries are given."""
    odd = {"id": 2, "file_name": "odd.png"} if image is None else image
    caption = {"image_id": 2, "caption": "a cat"} if row is None else row
    return {
        "images": [{"id": 1, "file_name": "train.png"}, odd],
        "annotations": [{"image_id": 1, "caption": TEXT}, caption],
        **more,
    }


def _coco(name, content, refused=(), accepted=None, **options):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()

    def make(raw):
        (raw / "images").mkdir()
        (raw / "images" / "odd.png").write_bytes(good())
        return coco(raw, data, **options)

    return Case(name, make, ("train.json", *refused) if refused else (), accepted or {})


COCO = [
    _coco("coco", _content(), (), TWO),
    _coco("coco with text ids", _content({"id": "x", "file_name": "odd.png"},
          {"image_id": "x", "caption": "a cat"}), (), TWO),
    _coco("coco with more keys", _content(info={"a": [1]}, licenses=[]), (), TWO),
    _coco("coco with an id of 400 digits", json.dumps(_content()).replace("2", "2" * 400).encode(),
          (), TWO),
    _coco("coco cut", json.dumps(_content()).encode()[:-9], ("malformed JSON",)),
    _coco("coco in utf-16", json.dumps(_content()).encode("utf-16"), ("UTF-16",)),
    _coco("coco a list", [1], ("an object",)),
    _coco("coco without annotations", {"images": []}, ("'annotations' is missing",)),
    _coco("coco without images", {"annotations": []}, ("'images' is missing",)),
    _coco("coco with images an object", _content(images={}), ("dict",)),
    _coco("coco with annotations null", _content(annotations=None), ("NoneType",)),
    _coco("coco with numbers", _content(7, 8), ("images[1]", "annotations[1]")),
    _coco("coco of boxes", _content(annotations=[{"image_id": 1, "bbox": [1]}]), ("boxes",)),
    _coco("coco id NaN", _content({"id": float("nan"), "file_name": "odd.png"}), ("float nan",)),
    _coco("coco id a list", _content({"id": [2], "file_name": "odd.png"}), ("list [2]",)),
    _coco("coco id null", _content({"id": None, "file_name": "odd.png"}), ("NoneType",)),
    _coco("coco id true", _content({"id": True, "file_name": "odd.png"}), ("bool True",)),
    _coco("coco id twice", _content({"id": 1, "file_name": "odd.png"}), ("second time",)),
    _coco("coco name a number", _content({"id": 2, "file_name": 7}), ("int 7",)),
    _coco("coco name missing", _content({"id": 2}), ("'file_name' is missing",)),
    _coco("coco name outside", _content({"id": 2, "file_name": "../o.png"}), ("'../o.png'",)),
    _coco("coco name absolute", _content({"id": 2, "file_name": "/etc/a.png"}), ("'/etc/a.png'",)),
    _coco("coco caption null", _content(row={"image_id": 2, "caption": None}), ("NoneType",)),
    _coco("coco caption NaN", _content(row={"image_id": 2, "caption": float("nan")}), ("nan",)),
    _coco("coco caption a list", _content(row={"image_id": 2, "caption": ["a"]}), ("list",)),
    _coco("coco caption missing", _content(row={"image_id": 2}), ("'caption' is missing",)),
    _coco("coco caption of nobody", _content(row={"image_id": 3, "caption": "x"}), ("received 3",)),
    _coco("coco of karpathy", {"images": [{"filename": "a", "split": "train", "sentences": []}]},
          ("a json of Karpathy",)),
    _coco("coco nested", b'{"images": ' + b"[" * 200_000, ("nested too deeply",)),
    _coco("coco of 30,000 captions", _content(annotations=[{"image_id": 1, "caption": "x"}]
          * 30_000 + [{"image_id": 2, "caption": "y"}]), (), {"num_captions": 30_001}),
]  # fmt: skip

ROWS = f"file,caption\ntrain.png,{TEXT}\n".encode()


def _table(name, data, refused=(), accepted=None, *, where="train.csv", **options):
    def make(raw):
        (raw / "images").mkdir()
        (raw / "images" / "odd.png").write_bytes(good())
        return table(raw, data, **options)

    return Case(name, make, (where, *refused) if refused else (), accepted or {})


def _odd(text):
    return ROWS + f"odd.png,{text}\n".encode()


TABLES = [
    _table("table", _odd("a cat"), (), TWO),
    _table("table with a mark", b"\xef\xbb\xbf" + _odd("a cat"), (), TWO),
    _table("table with CRLF", _odd("a cat").replace(b"\n", b"\r\n"), (), TWO),
    _table("table with CR", _odd("a cat").replace(b"\n", b"\r"), (), TWO),
    _table("table with quotes", _odd('"a ""cat"", and"'), (), {"captions": [TEXT, 'a "cat", and']}),
    _table("table with a quote inside", _odd('a 5" cat'), (), {"captions": [TEXT, 'a 5" cat']}),
    _table("table with blank lines", _odd("a cat") + b"\n" * 30_000, (), TWO),
    _table("table with an index", b",file,caption\n0,train.png,a\n1,odd.png,b\n", (),
           {"captions": ["a", "b"]}),
    _table("table of formulas", _odd("=1+1"), (), {"captions": [TEXT, "=1+1"]}),
    _table("table in utf-16", _odd("a cat").decode().encode("utf-16"), ("UTF-16",)),
    _table("table in latin-1", _odd("x").replace(b"x", b"caf\xe9"), ("is not UTF-8",)),
    _table("table of zeros", bytes(4096), ("zero bytes alone",)),
    _table("table of nothing", b"", ("is empty",)),
    _table("table that is a zip", b"PK\3\4" + bytes(99), ("zip archive",)),
    _table("table that is json", b'{"images": []}', ("'file' is missing",)),
    _table("table that is a web page", b"<!DOCTYPE html><html>", ("a web page",)),
    _table("table without a header", b"train.png,a dog\nodd.png,a cat\n", ("'file' is missing",)),
    _table("table of other columns", b"a,b\n1,2\n", ("'file' is missing", "'a', 'b'")),
    _table("table of semicolons", ROWS.replace(b",", b";"), ("'file' is missing", "delimiter")),
    _table("table with a column twice", b"file,caption,caption\nodd.png,a,b\n", ("2 times",)),
    _table("table with a short row", ROWS + b"odd.png\n", ("line 3", "1 cells")),
    _table("table with a long row", _odd("a, b"), ("line 3", "3 cells")),
    _table("table with an open quote", _odd('"a cat') + b"x,y\n" * 50_000, ("line 3", "open")),
    _table("table with text after a quote", _odd('"a" cat'), ("line 3", "cannot be read")),
    _table("table with a zero byte", _odd("a \0 cat"), ("zero bytes",)),
    _table("table with NaN", _odd("NaN"), ("'NaN'", "missing value")),
    _table("table with None", _odd("None"), ("'None'",)),
    _table("table with an empty cell", _odd(""), ("caption ''",)),
    _table("table with a list as text", _odd("\"['a', 'b']\""), ("written as text",)),
    _table("table with a cell of 10 MB", _odd("a" * (10 << 20)), ("line 3", "131,072")),
    _table("table with a name outside", ROWS + b"../odd.png,x\n", ("'../odd.png'",)),
    _table("table with a name absolute", ROWS + b"/etc/passwd,x\n", ("'/etc/passwd'",)),
    _table("table with a name of blanks", ROWS + b" ,x\n", ("image name",)),
    _table("table with a picture not there", ROWS + b"gone.png,x\n", ("'gone.png' is missing",),
           where="images of raw"),
    _table("table that unpacks to 2 GB", gzip.compress(b" " * (1 << 20)) * 2000,
           ("unpacks to more",), where="train.csv.gz"),
    _table("table of 30,000 rows", ROWS + b"odd.png,x\n" * 30_000, (),
           {"num_captions": 30_001}),
]  # fmt: skip


def _gzipped(case):
    """The case of a bomb, under a name that is unpacked."""

    def make(raw):
        settings = case.make(raw)
        (raw / "train.csv").rename(raw / "train.csv.gz")
        return [setting.replace('"train.csv"', '"train.csv.gz"') for setting in settings]

    return Case(case.name, make, case.refused)


BOMB = "table that unpacks to 2 GB"
TABLES = [_gzipped(case) if case.name == BOMB else case for case in TABLES]


def _folder(name, change, refused=(), accepted=None, **options):
    def make(raw):
        settings = folders(raw, **options)
        change(raw / "train")
        return settings

    return Case(name, make, refused, accepted or {})


def _odd_file(name, data, text=b"a cat"):
    def change(train):
        (train / name).write_bytes(data)
        (train / name).with_suffix(".txt").write_bytes(text)

    return change


def _nothing(train):
    pass


def _up(train):
    (train / "up").symlink_to("..")


def _hole(train):
    os.truncate(train / "also.txt", 1 << 42)


def _log(train):
    rows = {"status": ["success", "failed_to_download", None]}
    pq.write_table(pa.table(rows), train.with_name("train.parquet"))


def _many(train):
    for number in range(1_500):
        (train / f"{number}.json").write_bytes(b"")


THREE = {"captions": [TEXT, "a cat", TEXT], "names": ["train/also.png", "train/odd.png",
         "train/train.png"]}  # fmt: skip
FOLDERS = [
    _folder("folder", _odd_file("odd.png", good()), (), THREE),
    _folder("folder with CRLF", _odd_file("odd.png", good(), b"a cat\r\n\r\n"), (), THREE),
    _folder("folder with a mark", _odd_file("odd.png", good(), b"\xef\xbb\xbfa cat"), (), THREE),
    _folder("folder with an upper ending", _odd_file("odd.PNG", good()), (), {"num_train": 3}),
    _folder("folder with a dot in a name", _odd_file("o.d.png", good()), (), {"num_train": 3}),
    _folder("folder with a web page", _odd_file("odd.png", b"<html>"), ("a web page", "odd.png")),
    _folder("folder with a picture of zeros", _odd_file("odd.png", bytes(99)), ("zero bytes",)),
    _folder("folder with text in utf-16", _odd_file("odd.png", good(), "x".encode("utf-16")),
            ("'train/odd'", "not UTF-8")),
    _folder("folder with an empty text", _odd_file("odd.png", good(), b""), ("no captions",)),
    _folder("folder with text of dots", _odd_file("odd.png", good(), b"..."), ("caption '...'",)),
    _folder("folder with a zero byte", _odd_file("odd.png", good(), b"a\0b"), ("zero bytes",)),
    _folder("folder with json that is none", lambda train: (train / "also.txt").rename(
            train / "also.json"), ("also", "malformed JSON")),
    _folder("folder without a text", lambda train: (train / "also.txt").unlink(),
            ("'train/also'",)),
    _folder("folder without a picture", lambda train: (train / "also.png").unlink(),
            ("received also.txt",)),
    _folder("folder with two pictures", _odd_file("also.jpg", good()), ("also.jpg and also.png",)),
    _folder("folder with a pipe of text", lambda train: (
            (train / "also.txt").unlink(), os.mkfifo(train / "also.txt")), ("'train/also'",)),
    _folder("folder with a pipe as picture", lambda train: os.mkfifo(train / "pipe.png"), (),
            {"num_train": 2}),
    _folder("folder with a broken link", lambda train: (train / "l.png").symlink_to("none"), (),
            {"num_train": 2}),
    _folder("folder with a link upwards", _up, ("2 x picture in several splits",)),
    _folder("folder with a text of 4 TB", _hole, ("4,398,046,511,104 bytes",)),
    _folder("folder with failed downloads", _log, ("2 of 6", "failed_to_download"),
            train=["train", "train.parquet"]),
    _folder("folder with 1,500 other files", _many, (), {"num_train": 2}),
    _folder("folder of no name", _nothing, ("'gone'", "nothing"), train=["gone"]),
    _folder("folder outside", _nothing, ("'../raw/train'",), train=["../raw/train"]),
    _folder("folder absolute", _nothing, ("'/etc'",), train=["/etc"]),
    _folder("folder of two splits", _nothing, ("`shares` is null",), val=["val", "train"]),
    _folder("folder with shares that say nothing", _nothing, ("nothing is divided",),
            shares={"seed": 0, "train": 0.8, "val": 0.1, "test": 0.1}),
    _folder("folder with shares above 1", _nothing, ("1.5 together",),
            shares={"seed": 0, "train": 0.5, "val": 0.5, "test": 0.5},
            **{split: ["."] for split in SPLITS}),
    _folder("folder with a share of text", _nothing, ("shares",),
            shares={"seed": 0, "train": "most", "val": 0.1, "test": 0.1}),
    _folder("folder with a share NaN", _nothing, ("shares",),
            shares={"seed": 0, "train": float("nan"), "val": 0.1, "test": 0.1}),
    _folder("folder by shares", _nothing, (), {"num_train": 2},
            shares={"seed": 0, "train": 0.5, "val": 0.25, "test": 0.25},
            **{split: ["."] for split in SPLITS}),
]  # fmt: skip


def _logged(name, log, refused=(), accepted=None):
    """Shards with a table of img2dataset beside that of train."""

    def make(raw):
        log(raw / "train.parquet")
        return shards(raw, tar([("a.png", good()), ("a.txt", b"a cat"), ("b.png", good()),
                                ("b.txt", b"a dog")]))  # fmt: skip

    return Case(name, make, refused, accepted or {})


def _status(*values):
    return lambda path: pq.write_table(pa.table({"status": pa.array(values)}), path)


LOGS = [
    _logged("log of successes", _status("success", "success"), (), {"num_train": 2}),
    _logged("log of a failure", _status("success", "failed_to_resize"), ("failed_to_resize",)),
    _logged("log of nulls", _status(None, "success"), ("'None'",)),
    _logged("log of numbers", _status(1, 2), (), {"num_train": 2}),
    _logged("log of nothing", lambda path: path.write_bytes(b""), ("train.parquet", "empty")),
    _logged("log of a pipe", lambda path: os.mkfifo(path), (), {"num_train": 2}),
    _logged("log of 30,000 failures", _status(*["failed_to_download"] * 30_000),
            ("30000 x failed download",)),
]  # fmt: skip

CASES = [*COCO, *TABLES, *FOLDERS, *LOGS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_reader_of_others_data(case, tmp_path):
    check(case, Path(tmp_path))


def test_every_reader_names_what_it_does_not_know(tmp_path):
    settings = reader("folders")
    case = Case("no reader", lambda raw: settings, ("'folders'", "folder", "coco_json", "csv"))
    check(case, tmp_path)
