"""Parquet tables that are damaged, of other types, or expand to far more than their size."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.hostile import Case, check
from tests.faults.hostile_datasets import TEXT, good, parquet

TWO = {"captions": ["a", "b"]}
PICTURES = [good(), good()]


def _of(title, columns, refused=(), accepted=None, **options):
    words = ("train.parquet", *refused) if refused else ()
    return Case(title, lambda raw: parquet(raw, columns, **options), words, accepted or {})


def _written(columns, **how):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **how)
    return buffer.getvalue()


def _captions(values, kind=None):
    return {"image": PICTURES, "caption": pa.array(values, kind) if kind else values}


def _flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 0xFF
    return bytes(changed)


def _nested(depth):
    kind = pa.string()
    for _ in range(depth):
        kind = pa.list_(kind)
    return _captions([None, None], kind)


def _many(count, value=TEXT):
    """One value in as many rows: a few hundred kB on disk."""
    part = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), [value])
    table = pa.table({"image": part, "caption": part})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        writer.write_table(pa.concat_tables([table] * (count // 1000)).unify_dictionaries())
    return buffer.getvalue()


WHOLE = _written(_captions(["a", "b"]))
STRUCTS = [{"bytes": data, "path": "x.png"} for data in PICTURES]
CASES = [
    _of("whole", WHOLE, (), TWO),
    _of("cut", WHOLE[:-40], ("not a whole Parquet file",)),
    _of("cut to its head", WHOLE[:100], ("not a whole Parquet file",)),
    _of("without its head", WHOLE[4:], ("train.parquet",)),
    _of("empty", b"", ("not a whole Parquet file",)),
    _of("zeros", bytes(5000), ("zero bytes alone",)),
    _of("flipped byte of a page", _flipped(_written(_captions(["a", "b"]),
        write_page_checksum=True), 60), ("train.parquet",)),
    _of("flipped byte of the footer", _flipped(WHOLE, len(WHOLE) - 60), ("train.parquet",)),
    _of("length of the footer 2^31", WHOLE[:-8] + b"\xff\xff\xff\x7fPAR1", ("train.parquet",)),
    _of("csv", b"image,caption\na.jpg,x\n", ("not a whole Parquet file",)),
    _of("arrow", b"ARROW1\0\0" + bytes(99), ("an Arrow file",)),
    _of("zip", b"PK\3\4" + bytes(99), ("zip archive",)),
    _of("encrypted", WHOLE[:-4] + b"PARE", ("train.parquet",)),
    _of("no column of pictures", {"caption": ["a", "b"]}, ("'image' is missing",)),
    _of("no column of captions", {"image": PICTURES}, ("'caption' is missing",)),
    Case("no rows", lambda raw: parquet(raw, {
        "image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}),
        ("split 'train' has no images",)),
    _of("captions of integers", _captions([1, 2]), ("int64",)),
    _of("captions of floats", _captions([1.0, float("nan")]), ("double",)),
    _of("captions of null", _captions([None, None]), ("null",)),
    _of("captions of dates", _captions([0, 1], pa.date32()), ("date32",)),
    _of("captions of bytes", _captions([b"a", b"b"]), ("binary",)),
    _of("captions of structs", _captions([{"raw": "a"}] * 2), ("struct",)),
    _of("captions of nested lists", _captions([[["a"]], [["b"]]]), ("list",)),
    _of("captions of lists, 50 deep", _nested(50), ("list",)),
    _of("one null caption", _captions(["a", None]), ("row 1", "NoneType")),
    _of("null in a list of captions", _captions([["a"], ["b", None]]), ("row 1", "NoneType")),
    _of("empty list of captions", _captions([["a"], []]), ("row 1", "no captions")),
    _of("null list of captions", _captions([["a"], None]), ("row 1",)),
    _of("blank caption", _captions(["a", "  "]), ("row 1", "caption")),
    _of("caption with a zero byte", _captions(["a", "b\0"]), ("row 1", "zero bytes")),
    _of("list written as text", _captions(["a", "['x', 'y']"]), ("row 1", "written as text")),
    _of("null picture", {"image": [good(), None], "caption": ["a", "b"]}, ("row 1", "null")),
    _of("empty picture", {"image": [good(), b""], "caption": ["a", "b"]}, ("row 1", "empty")),
    _of("cut picture", {"image": [good(), good()[:50]], "caption": ["a", "b"]}, ("row 1",)),
    _of("picture of html", {"image": [good(), b"<html>"], "caption": ["a", "b"]}, ("a web page",)),
    _of("pictures of integers", {"image": [1, 2], "caption": ["a", "b"]}, ("int64",)),
    _of("paths that are not there", {"image": ["x.png", "y.png"], "caption": ["a", "b"]},
        ("x.png", "missing")),
    _of("paths that leave the folder", {"image": ["../x.png"] * 2, "caption": ["a", "b"]}, ("..",)),
    _of("path of a device", {"image": ["/dev/zero"] * 2, "caption": ["a", "b"]}, ("/dev/zero",)),
    _of("names twice", {"image": PICTURES, "caption": ["a", "b"], "n": ["x", "x"]}, ("'x'",),
        name="n"),
    _of("name null", {"image": PICTURES, "caption": ["a", "b"], "n": ["x", None]}, ("row 1",),
        name="n"),
    _of("structs of pictures", {"image": STRUCTS, "caption": ["a", "b"]}, (), TWO),
    _of("large types", {"image": pa.array(PICTURES, pa.large_binary()),
        "caption": pa.array(["a", "b"], pa.large_string())}, (), TWO),
    _of("view types", {"image": pa.array(PICTURES, pa.binary_view()),
        "caption": pa.array(["a", "b"], pa.string_view())}, (), TWO),
    _of("dictionary", _captions(pa.array(["a", "b"]).dictionary_encode()), (), TWO),
    _of("fixed lists", _captions([["a"], ["b"]], pa.list_(pa.string(), 1)), (), TWO),
    _of("row groups of one row", _written(_captions(["a", "b"]), row_group_size=1), (), TWO),
    _of("names of integers", {"image": PICTURES, "caption": ["a", "b"], "n": [1, 2]}, (),
        {"names": ["1", "2"]}, name="n"),
    _of("other columns, nested", {"image": PICTURES, "caption": ["a", "b"],
        "x": [[{"y": [1]}], None]}, (), TWO),
    _of("caption of 10 MB", _captions(["a", "b " * (5 << 20)]), (), {"num_captions": 2}),
    _of("caption with a mark", _captions(["a", "\ufeffb"]), (), {"captions": ["a", "\ufeffb"]}),
    Case("20 million rows of one value", lambda raw: parquet(raw, _many(20_000_000)),
              ("train.parquet", "rows")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_table(case, tmp_path):
    check(case, Path(tmp_path))
