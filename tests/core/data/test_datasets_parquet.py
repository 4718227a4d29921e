"""Parquet tables: the same bytes as from Karpathy's layout, streamed pictures, and every bad table
named by row and column.
"""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.data.datasets import parquet
from tasks.core.data.left_out import EMPTY_FILE, LeftOut
from tasks.core.data.table_pictures import PictureReader
from tasks.core.data.tables import Leaf
from tasks.settings import validation
from tests.core.data.caption_samples import (
    SAMPLES,
    of_split,
    picture,
    prepared,
    read,
    through_karpathy,
)

SPLITS = ("train", "val", "test")
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
TEXTS = pa.list_(pa.string())


def _config(root, **options):
    named = {
        "rows": "images",
        "image": "image",
        "captions": ["caption"],
        "name": None,
        "split": None,
        "split_values": {},
    }
    return parquet.Config(
        path=str(root), **{split: [f"{split}-*.parquet"] for split in SPLITS} | named | options
    )


def _write(path, columns, row_group_size=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


def _columns(samples, kind="struct"):
    """The columns of a table as the hub stores them; `path` needs the pictures as files."""
    if kind == "struct":
        images = pa.array([{"bytes": sample.data, "path": "x"} for sample in samples], STRUCT)
    elif kind == "binary":
        images = pa.array([sample.data for sample in samples], pa.large_binary())
    else:
        images = pa.array([f"{sample.split}/{sample.name}" for sample in samples], pa.string())
    names = [f"{sample.split}/{sample.name}" for sample in samples]
    return {
        "image": images,
        "caption": pa.array([list(sample.captions) for sample in samples], TEXTS),
        "file": names,
    }


def _dataset(root, changes=None, **options):
    """One table a split; columns of that of train may be replaced, or left out with None."""
    for split in SPLITS:
        columns = _columns(of_split(split))
        columns.update(changes if changes is not None and split == "train" else {})
        _write(
            root / f"{split}-0.parquet",
            {name: values for name, values in columns.items() if values is not None},
        )
    return _config(root, **options)


@pytest.mark.parametrize("kind", ["struct", "binary", "path"])
def test_tables_are_prepared_to_the_bytes_of_karpathys_layout(tmp_path, kind):
    expected = through_karpathy(tmp_path)
    raw = tmp_path / "raw" / "images"
    for split in SPLITS:
        _write(raw / f"{split}-0.parquet", _columns(of_split(split), kind))
    assert (
        prepared(
            parquet,
            _config(raw, name=None if kind == "path" else "file"),
            tmp_path / "out",
        )
        == expected
    )


def test_a_column_of_splits_sorts_the_rows_of_one_table_and_may_leave_some_out(tmp_path):
    samples = [SAMPLES[index] for index in (4, 0, 3, 1, 2)]
    columns = {
        **_columns(samples),
        "part": [{"train": "train", "val": "validation", "test": "test"}[s.split] for s in samples],
    }
    extra = {
        "image": pa.array([None], STRUCT),
        "caption": pa.array([[]], TEXTS),
        "file": ["unused"],
        "part": ["restval"],
    }
    table = pa.concat_tables([pa.table(columns), pa.table(extra)])
    parts = table["part"].combine_chunks().dictionary_encode()
    _write(
        tmp_path / "raw" / "all.parquet",
        {name: parts if name == "part" else table[name] for name in table.column_names},
    )
    values = {"train": "train", "validation": "val", "test": "test", "restval": None}
    listed = {split: ["*.parquet"] for split in SPLITS}
    config = _config(tmp_path / "raw", **listed, name="file", split="part", split_values=values)
    (tmp_path / "karpathy").mkdir()
    assert prepared(parquet, config, tmp_path / "out") == through_karpathy(tmp_path / "karpathy")
    assert len(parquet.raw_digest(config)) == 64


def test_several_caption_columns_are_joined_and_unnamed_images_numbered(tmp_path):
    train = {
        "caption_0": ["one", "two", "three"],
        "caption_1": pa.array([["x", "y"], ["z"], ["w"]], pa.large_list(pa.large_string())),
    }
    config = _dataset(tmp_path, train, captions=["caption_0", "caption_1"])
    for split in ("val", "test"):
        _write(
            tmp_path / f"{split}-0.parquet",
            {**_columns(of_split(split)), "caption_0": ["v"], "caption_1": ["v"]},
        )
    described = [(example.name, example.captions) for example in read(parquet, config)]
    assert described == [
        ("train/000000", ("one", "x", "y")),
        ("train/000001", ("two", "z")),
        ("train/000002", ("three", "w")),
        ("val/000000", ("v", "v")),
        ("test/000000", ("v", "v")),
    ]


def test_a_table_without_rows_is_counted(tmp_path):
    config, left_out = _dataset(tmp_path), LeftOut(0.0, str(tmp_path))
    _write(tmp_path / "val-1.parquet", {**_columns([]), "caption": pa.array([], TEXTS)})
    assert len(list(parquet.examples(config, left_out))) == len(SAMPLES)
    assert left_out.facts() == {EMPTY_FILE: {"count": 1, "first": ["val-1.parquet"]}}


def test_a_struct_without_bytes_is_read_from_its_path(tmp_path):
    (tmp_path / "x.jpg").write_bytes(picture(7))
    images = pa.array(
        [
            {"bytes": picture(5), "path": None},
            {"bytes": None, "path": "x.jpg"},
            {"bytes": picture(6), "path": "x.jpg"},
        ],
        STRUCT,
    )
    config = _dataset(tmp_path, {"image": images})
    examples = read(parquet, config)
    assert [example.name for example in examples[:3]] == ["train/000000", "x.jpg", "train/000002"]
    assert [example.load().size[1] for example in examples[:3]] == [11 + 5, 11 + 7, 11 + 6]
    digest = parquet.raw_digest(config)
    (tmp_path / "x.jpg").write_bytes(picture(8))
    assert parquet.raw_digest(config) != digest


def test_a_row_group_of_many_pictures_is_streamed_forward_and_again(tmp_path):
    values = [bytes([number]) * 100_000 for number in range(160)]
    path = tmp_path / "t.parquet"
    table = pa.table({"image": values})
    pq.write_table(
        table,
        path,
        row_group_size=1000,
        write_batch_size=8,
        compression="none",
        use_dictionary=False,
    )
    del table
    pool, reader = pa.default_memory_pool(), PictureReader(Leaf("image"))
    before, held = pool.bytes_allocated(), []
    for row in [*range(160), 3, 150]:
        assert reader.read(path, 0, row) == values[row]
        held.append(pool.bytes_allocated() - before)
    # 16 MB lie in the row group, in pages of about 1 MB; 8 rows are 0.8 MB. 3.4 MB were held when
    # this was written.
    assert max(held) < 5_000_000
    with pytest.raises(ValueError, match=r"t\.parquet: has fewer rows than when it was indexed"):
        reader.read(path, 0, 160)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"caption": pa.array([["x"], ["y"], []], TEXTS)},
            r"row 2\.caption: the image has no captions",
        ),
        (
            {"caption": pa.array([["x"], ["y", " "], ["z"]], TEXTS)},
            r"row 1\.caption\[1\]: received caption ' '",
        ),
        (
            {"caption": pa.array([["x"], ["y", None], ["z"]], TEXTS)},
            r"row 1\.caption\[1\]: received NoneType None, allowed is str",
        ),
        (
            {"caption": pa.array([["x"], ["y"], None], TEXTS)},
            r"row 2\.caption: received NoneType None",
        ),
        ({"caption": ["x", "", "z"]}, r"row 1\.caption: received caption ''"),
        (
            {"caption": [1, 2, 3]},
            r"column 'caption' has the type int64, allowed is text or a list of texts; change "
            r"`captions`",
        ),
        (
            {"caption": pa.array([[1], [2], [3]])},
            r"column 'caption' has the type list<.*int64>, allowed is text or a list of texts",
        ),
        (
            {"caption": None},
            r"column 'caption' is missing; received the columns image, file; change `captions`",
        ),
        (
            {"image": None},
            r"column 'image' is missing; received the columns caption, file; change `image`",
        ),
        (
            {"image": [1, 2, 3]},
            r"column 'image' has the type int64, allowed is binary, a struct .*; change `image`",
        ),
        (
            {"image": [{"path": "x"}] * 3},
            r"column 'image' has the type struct<path: string>, allowed is binary, a struct",
        ),
        ({"image": pa.array([b"x", None, b"y"])}, r"row 1\.image: the picture is missing \(null\)"),
        (
            {"image": pa.array([{"bytes": b"x"}, {"bytes": b"x"}, None], STRUCT)},
            r"row 2\.image: the picture is missing \(null\)",
        ),
        (
            {"image": ["a/../b.jpg", "x", "y"]},
            r"row 0\.image: received image name 'a/\.\./b\.jpg', allowed is a relative path",
        ),
        ({"image": ["none.jpg", "x", "y"]}, r"row 0\.image: image 'none\.jpg' is missing in"),
        (
            {"image": ["val-0.parquet", "./val-0.parquet", "y"]},
            r"row 1\.image: received '\./val-0\.parquet', .* of .*row 0 too; allowed is one",
        ),
        (
            {"file": ["a", "b", "a"]},
            r"row 2: received the image name 'a' a second time, first at .*train-0\.parquet: row "
            r"0;",
        ),
        ({"file": ["a", "../b", "c"]}, r"row 1: name: received image name '\.\./b'"),
        ({"file": ["a", None, "c"]}, r"row 1\.file: received NoneType None"),
        (
            {"file": [1.5, 2.5, 3.5]},
            r"column 'file' has the type double, allowed is text or whole numbers; change `name`",
        ),
        ({"image": [picture(0), picture(1), b"GIF"]}, r"row 2\.image: not an image \(3 bytes"),
        ({"image": [picture(0), picture(1), b""]}, r"row 2\.image: not an image \(0 bytes"),
        (
            {"image": [picture(0)[:-60], picture(1), picture(2)]},
            r"row 0\.image: the image cannot be decoded \(image file is truncated",
        ),
    ],
)
def test_a_bad_row_is_named_by_table_row_and_column_and_leaves_nothing(tmp_path, changes, message):
    out = tmp_path / "out"
    with pytest.raises(
        (ValueError, FileNotFoundError), match=rf"train-0\.parquet: (the )?{message}"
    ):
        prepared(parquet, _dataset(tmp_path, changes, name="file"), out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (
            "dev",
            {},
            r"row 2\.part: received split 'dev', allowed is one of train, t, v; repair the table "
            r"or add the value to `split_values`",
        ),
        (None, {}, r"row 2\.part: received split None"),
        (
            "t",
            {},
            r"row 2\.part: received 't', a row of test, in a table that is listed under train; "
            r"list the table under `test`",
        ),
        (
            "t",
            {"split_values": {}},
            r"`split_values` of the dataset: received \{\} with the column 'part'",
        ),
        ("t", {"split": None}, r"`split_values` of the dataset: received .* with the column None"),
        ("t", {"split": "none"}, r"column 'none' is missing; .*; change `split`"),
    ],
)
def test_a_split_that_is_not_stated_is_refused(tmp_path, value, options, message):
    named = {"split": "part", "split_values": {"train": "train", "t": "test", "v": "val"}}
    config = _dataset(tmp_path, {"part": ["train", "train", value]}, **{**named, **options})
    for split, part in (("val", "v"), ("test", "t")):
        columns = {**_columns(of_split(split)), "part": [part]}
        _write(tmp_path / f"{split}-0.parquet", columns)
    with pytest.raises(ValueError, match=message):
        read(parquet, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ["none-*"]}, r"`train` of the dataset has 'none-\*', which matches no file"),
        ({"test": ["*"]}, r"train-0\.parquet is named by `train` and by `test`"),
        ({"captions": []}, r"`captions` of the dataset is empty"),
        ({"captions": ["caption", "caption"]}, r"allowed is each column once, and 'caption' is"),
    ],
)
def test_bad_options_say_what_to_change(tmp_path, options, message):
    _dataset(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(parquet, _config(tmp_path, **options))


def test_options_are_typed_and_a_split_that_does_not_exist_is_refused():
    columns = {"rows": "images", "image": "i", "captions": ["c"], "name": None, "split": "s"}
    options = {**{split: ["x"] for split in SPLITS}, "path": "x", **columns}
    section = {
        "dataset": "parquet",
        "options": {**options, "split_values": {"a": "train", "b": None}},
    }
    plugin, _ = validation.plugin_of("datasets", section, "dataset", "prepare_data")
    assert plugin.config.split_values == {"a": "train", "b": None}
    section["options"]["split_values"] = {"a": "dev"}
    with pytest.raises(ValueError, match=r"prepare_data\.options\.split_values\.a: received 'dev'"):
        validation.plugin_of("datasets", section, "dataset", "prepare_data")


@pytest.mark.parametrize("damage", ["truncated", "not a table", "empty", "inside"])
def test_an_unusable_table_is_named(tmp_path, damage):
    config, path = _dataset(tmp_path), tmp_path / "train-0.parquet"
    data = path.read_bytes()
    # The captions of the first row group come after its pictures: a page header there is
    # overwritten.
    inside = pq.ParquetFile(path).metadata.row_group(0).column(2).dictionary_page_offset
    path.write_bytes(
        {
            "truncated": data[:-20],
            "not a table": b"x" * 99,
            "empty": b"",
            "inside": data[:inside] + b"\xff" * 40 + data[inside + 40 :],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"train-0\.parquet: not a whole Parquet file"):
        read(parquet, config)


def test_digest_follows_tables_and_their_splits_but_not_the_place(tmp_path):
    one, two = _dataset(tmp_path / "one"), _dataset(tmp_path / "two")
    digest = parquet.raw_digest(one)
    assert digest == parquet.raw_digest(two)
    assert (
        parquet.raw_digest(
            _config(tmp_path / "one", val=["test-0.parquet"], test=["val-0.parquet"])
        )
        != digest
    )
    _dataset(tmp_path / "two", {"caption": ["x", "y", "z"]})
    assert parquet.raw_digest(two) != digest
