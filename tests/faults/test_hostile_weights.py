"""Files of weights that are damaged, foreign, or claim more than they hold."""

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load, save

from tests.faults.hostile import Case, check
from tests.store.test_pulled import _write_weights

TOY = (
    "prepare_data.options.num_train=4",
    "prepare_data.options.num_val=2",
    "prepare_data.options.num_test=2",
    "prepare_data.image_size=32",
    "prepare_data.options.image_size=32",
)
FILE = "w.safetensors"


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The bytes of weights that fit."""
    path = tmp_path_factory.mktemp("weights") / FILE
    _write_weights(path)
    return path.read_bytes()


def _file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _changed(change):
    """The whole file after `change(tensors)`."""

    def make(whole):
        tensors = load(whole)
        change(tensors)
        return save(tensors)

    return make


def _fill(value):
    return _changed(lambda tensors: [one.fill_(value) for one in tensors.values()])


def _first(change):
    def apply(tensors):
        name = sorted(tensors)[0]
        tensors[name] = change(tensors[name])

    return _changed(apply)


def _million():
    entry = json.dumps(_tensor([0], [0, 0]))
    return _file(
        ("{" + ",".join(f'"{number}":{entry}' for number in range(1_000_000)) + "}").encode()
    )


BYTES = [
    # name, the file or what makes it of the whole one, words
    ("empty", b"", ()),
    ("seven bytes", bytes(7), ()),
    ("zeros", bytes(5000), ()),
    ("pickle", pickle.dumps({"x": [1.0]}), ()),
    ("web page", b"<!DOCTYPE html><html></html>", ()),
    ("pointer of git-LFS", b"version https://git-lfs.github.com/spec/v1\n", ()),
    ("zip", b"PK\3\4" + bytes(99), ()),
    ("numpy", b"\x93NUMPY" + bytes(99), ()),
    ("header of 2^63 bytes", _file({}, length=2**63), ()),
    ("header of 2^64 - 1 bytes", _file({}, length=2**64 - 1), ()),
    ("header longer than the file", _file({}, length=5000), ()),
    ("header of 120 MB", _file(b"{}" + b" " * (120 << 20)), ()),
    ("header of no json", _file(b"hello, no json"), ()),
    ("header a list", _file([1, 2]), ()),
    ("header of nested lists", _file(b"[" * 100_000), ()),
    ("header of no text", _file(b"\xff\xfe\xfd"), ()),
    ("no tensors", _file({}), ("lacks",)),
    ("tensors that overlap", _file({"a": _tensor([2], [0, 8]), "b": _tensor([2], [4, 12])},
     bytes(12)), ()),
    ("tensor beyond the end", _file({"a": _tensor([2], [0, 8])}, bytes(4)), ()),
    ("tensor with a gap", _file({"a": _tensor([2], [8, 16])}, bytes(16)), ()),
    ("tensor of negative size", _file({"a": _tensor([-2], [0, 8])}, bytes(8)), ()),
    ("tensor that ends before it begins", _file({"a": _tensor([2], [8, 0])}, bytes(8)), ()),
    ("tensor of 2^80 numbers", _file({"a": _tensor([2**40, 2**40], [0, 8])}, bytes(8)), ()),
    ("tensor of another size than its shape", _file({"a": _tensor([3], [0, 8])}, bytes(8)), ()),
    ("unknown type", _file({"a": _tensor([2], [0, 8], "F99")}, bytes(8)), ()),
    ("type a number", _file({"a": _tensor([2], [0, 8], 7)}, bytes(8)), ()),
    ("same name twice", _file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
     b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), ()),
    ("a million tensors", lambda whole: _million(), ("tensors",)),
    ("cut", lambda whole: whole[:-100], ()),
    ("cut in the header", lambda whole: whole[:300], ()),
    ("data behind the end", lambda whole: whole + bytes(8), ()),
    ("zeroed", _fill(0.0), ("are zero", "change model.options (weights")),
    ("nan", _fill(float("nan")), ("non-finite weights in", "change model.options (weights")),
    ("infinity", _fill(float("inf")), ("non-finite weights in", "change model.options (weights")),
    ("one nan", _first(lambda one: one.index_fill(0, one.new_zeros(1, dtype=int), np.nan)),
     ("non-finite weights in", "change model.options (weights")),
    ("a tensor too few", _changed(lambda tensors: tensors.pop(sorted(tensors)[0])), ("lacks 1",)),
    ("another shape", _first(lambda one: one.repeat(2, *[1] * (one.dim() - 1))),
     ("size mismatch",)),
    ("whole numbers", _first(lambda one: one.to(int)), ("has the type I64",)),
]  # fmt: skip
PLACES = [
    ("nothing", lambda path: None, ("is not there",)),
    ("folder", lambda path: path.mkdir(), ("no regular file",)),
    ("fifo", os.mkfifo, ("no regular file",)),
    ("device", lambda path: path.symlink_to("/dev/zero"), ("no regular file",)),
    ("broken link", lambda path: path.symlink_to("gone"), ("is not there",)),
    ("1 GB of holes", lambda path: _sparse(path), (FILE,)),
]


def _sparse(path):
    path.touch()
    os.truncate(path, 1 << 30)


def _settings(file):
    options = {"name": "test_nfnet", "weights": f"raw/{file}", "kwargs": {}}
    return [*TOY, f"model.options={json.dumps({**options, 'mean': None, 'std': None})}"]


@pytest.mark.parametrize(("name", "data", "words"), BYTES, ids=[one[0] for one in BYTES])
def test_weights(name, data, words, whole, tmp_path):
    def make(raw):
        (raw / FILE).write_bytes(data if isinstance(data, bytes) else data(whole))
        return _settings(FILE)

    # The encoder that is built says what its weights are: it knows no file.
    words = words if "change model.options (weights" in words else (FILE, *words)
    check(Case(name, make, words, is_start=True), Path(tmp_path))


@pytest.mark.parametrize(("name", "place", "words"), PLACES, ids=[one[0] for one in PLACES])
def test_what_stands_where_weights_should(name, place, words, tmp_path):
    def make(raw):
        place(raw / FILE)
        return _settings(FILE)

    check(Case(name, make, (FILE, *words), is_start=True), Path(tmp_path))


def test_weights_that_fit_make_a_start(whole, tmp_path):
    def make(raw):
        (raw / FILE).write_bytes(whole)
        return _settings(FILE)

    check(Case("whole", make, accepted={"num_train": 4}, is_start=True), Path(tmp_path))


def test_weights_of_a_head_that_is_not_used_are_accepted(whole, tmp_path):
    def make(raw):
        tensors = load(whole)
        tensors["head.fc.weight"] = tensors[min(tensors)].clone()
        (raw / FILE).write_bytes(save(tensors))
        return _settings(FILE)

    check(Case("head", make, accepted={"num_train": 4}, is_start=True), Path(tmp_path))
