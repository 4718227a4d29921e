"""Tables of text: both layouts of rows, delimiters, quotes, splits, and every malformed row."""

import csv as library
import gzip
import io

import pytest

from tasks.core.data.datasets import csv
from tasks.core.data.shares import Shares
from tests.core.data.caption_samples import SAMPLES, prepared, read, through_karpathy

SPLITS = ("train", "val", "test")


def csv_options(root, **options):
    defaults = {
        "path": str(root),
        "images": ["images"],
        "shares": None,
        "file": "file",
        "captions": ["caption"],
        "split": "split",
        "split_values": {split: split for split in SPLITS},
        "delimiter": None,
        **{split: ["table.csv"] for split in SPLITS},
    }
    return csv.Config(**{**defaults, **options})


def _text(rows, delimiter=",", ending="\n"):
    buffer = io.StringIO()
    library.writer(buffer, delimiter=delimiter, lineterminator=ending).writerows(rows)
    return buffer.getvalue()


ROWS = [["split", "file", "caption"]] + [
    [sample.split, f"{sample.split}/{sample.name}", text]
    for sample in SAMPLES
    for text in sample.captions
]


def _table(root, text, name="table.csv"):
    root.mkdir(exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    for letter in "abc":
        (root / "images" / f"{letter}.jpg").write_bytes(b"x")
    path = root / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


@pytest.mark.parametrize(
    ("name", "delimiter", "how"),
    [
        ("table.csv", ",", {}),
        ("table.tsv", "\t", {}),
        ("table.tsv.gz", "\t", {}),
        ("table.txt", ";", {"delimiter": ";"}),
        ("table.csv", ",", {"ending": "\r\n"}),
    ],
)
def test_the_same_pictures_and_captions_as_through_karpathy(tmp_path, name, delimiter, how):
    expected = through_karpathy(tmp_path)
    text = _text(ROWS, delimiter, how.get("ending", "\n"))
    path = tmp_path / "raw" / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    files = {split: [name] for split in SPLITS}
    config = csv_options(tmp_path / "raw", delimiter=how.get("delimiter"), **files)
    assert prepared(csv, config, tmp_path / "found") == expected
    assert len(csv.raw_digest(config)) == 64


GOOD = "split,file,caption\ntrain,a.jpg,one\nval,b.jpg,two\ntest,c.jpg,three\n"


def test_one_row_an_image_has_several_columns_of_captions(tmp_path):
    _table(tmp_path, "split,file,first,second\ntrain,a.jpg,x,y\nval,b.jpg,,z\ntest,c.jpg,w,\n")
    found = read(csv, csv_options(tmp_path, captions=["first", "second"]))
    assert [example.captions for example in found] == [("x", "y"), ("z",), ("w",)]


def test_cells_in_quotes_hold_commas_lines_and_quotes(tmp_path):
    _table(tmp_path, GOOD.replace("one", '"a, ""b""\nc"'))
    assert read(csv, csv_options(tmp_path))[0].captions == ('a, "b"\nc',)


def test_quotes_after_a_blank_are_quotes(tmp_path):
    _table(tmp_path, GOOD.replace("one", ' "a, ""b"""').replace("two", '  two "b"'))
    found = read(csv, csv_options(tmp_path))
    assert [example.captions for example in found[:2]] == [('a, "b"',), ('two "b"',)]


def test_splits_are_those_of_files_or_of_shares(tmp_path):
    for letter, split in zip("abc", SPLITS, strict=True):
        _table(tmp_path, f"file,caption\n{letter}.jpg,{letter}\n", f"{split}.csv")
    files = {split: [f"{split}.csv"] for split in SPLITS}
    found = read(csv, csv_options(tmp_path, split=None, split_values={}, **files))
    assert [(example.name, example.split) for example in found] == [
        ("a.jpg", "train"),
        ("b.jpg", "val"),
        ("c.jpg", "test"),
    ]
    shares = Shares(seed=0, train=0.34, val=0.33, test=0.33)
    files = {split: ["*.csv"] for split in SPLITS}
    found = read(csv, csv_options(tmp_path, split=None, split_values={}, shares=shares, **files))
    assert sorted(example.split for example in found) == sorted(SPLITS)


def test_rows_that_an_option_leaves_out_are_counted(tmp_path):
    _table(tmp_path, GOOD + "extra,a.jpg,four\n")
    values = {"train": "train", "val": "val", "test": "test", "extra": None}
    assert read(csv, csv_options(tmp_path, split_values=values))[0].captions == ("one",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "train,a.jpg\n", "line 5: received 2 cells, allowed are the 3 of the header"),
        (GOOD + 'train,a.jpg,"a" b\n', "line 5: cannot be read"),
        (GOOD + 'train,a.jpg,"open\n' + "x\n" * 30, "line 5: a quote stays open for 30 more lines"),
        (GOOD + "train,a.jpg,nan\n", r"line 5\.caption: received 'nan', which programs write"),
        (GOOD + "train,a.jpg,\n", r"line 5\.caption: received caption ''"),
        (GOOD + "dev,a.jpg,x\n", r"line 5\.split: received split 'dev', allowed is one of train"),
        (GOOD + "val,a.jpg,x\n", r"line 5: received 'a.jpg' in val, but .*line 2 has it in train"),
        (GOOD + "train,../a.jpg,x\n", r"line 5\.file: received image name '\.\./a\.jpg'"),
        (
            GOOD + 'train,a.jpg,"open\ntrain,b.jpg,closed"\n',
            r"1 x row that holds other rows: .*line 5: a cell in quotes has line breaks",
        ),
        (GOOD + 'train,"a.jpg,x\ntrain,b.jpg",y\n', "1 x row that holds other rows: .*line 5"),
        (GOOD + '"train,a.jpg,x\nval",b.jpg,y\n', "1 x row that holds other rows: .*line 5"),
        ("", r"table\.csv: is empty"),
        ("a;b\n1;2\n", r"the column 'file' is missing; received the header 'a;b'"),
        (GOOD.replace("split,file", "file,file"), "the column 'file' is there 2 times"),
    ],
)
def test_a_malformed_row_is_named_by_line(tmp_path, text, message):
    _table(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        read(csv, csv_options(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": []}, "`captions` of the dataset is empty"),
        ({"captions": ["caption", "caption"]}, "allowed is each column once, and 'caption' is"),
        ({"captions": ["caption", "file"]}, "received 'file', 'caption', 'file'; allowed is each"),
        ({"split": None}, "`split_values` of the dataset"),
        ({"delimiter": ",,"}, "`delimiter` of the dataset: received ',,'"),
        ({"split": None, "split_values": {}}, r"table\.csv is named by `train` and by `val`"),
        ({"test": ["other.txt"], "delimiter": None}, r"other\.txt: the ending '\.txt' says no"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path, options, message):
    _table(tmp_path, GOOD)
    (tmp_path / "other.txt").write_text(GOOD)
    with pytest.raises(ValueError, match=message):
        read(csv, csv_options(tmp_path, **options))
