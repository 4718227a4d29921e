"""The tables of Flickr30K: both layouts, both kinds of split, the known malformed row and every
other one.
"""

import json

import pytest
from PIL import Image

from tasks.core.data.datasets import flickr_table

NAMES = ("a.jpg", "b.jpg", "c.jpg")


def _pictures(root, names, sub):
    for name in names:
        path = root / "images" / sub / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


def _described(examples):
    return [(example.name, example.split, example.captions) for example in examples]


TOKEN = "a.jpg#1\tsecond a\na.jpg#0\tfirst | a\nb.jpg#0\tb\nc.jpg#0\tc\nz.jpg#0\tunused\n"
CSV = (
    "image_name| comment_number| comment\na.jpg| 0| first | a\na.jpg| 1| second a\nb.jpg| 0| "
    "b\nc.jpg| 0| c\n"
)


def _table(root, text, name="results_20130124.token", splits=("train.txt", "val.txt", "test.txt")):
    (root / name).write_text(text)
    for file, line in zip(("train.txt", "val.txt", "test.txt"), NAMES, strict=True):
        (root / file).write_text(f"{line}\n")
    _pictures(root, NAMES, "")
    return flickr_table.Config(path=str(root), table=name, splits=list(splits), images=["images"])


@pytest.mark.parametrize(
    ("name", "text"),
    [("results.token", TOKEN), ("results.csv", CSV), ("results.csv", CSV.replace("\n", "\r\n"))],
)
@pytest.mark.parametrize("splits", ["lists", "lists without ending", "karpathy"])
def test_flickr_tables_and_splits_give_the_same_examples(tmp_path, name, text, splits):
    config = _table(tmp_path, text, name)
    if splits == "lists without ending":
        (tmp_path / "train.txt").write_text("a\n\n")
    elif splits == "karpathy":
        entries = [
            {"filename": name, "split": split}
            for name, split in zip(NAMES, ("train", "val", "test"), strict=True)
        ]
        (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
        config = _table(tmp_path, text, name, ["dataset.json"])
    expected = [
        ("a.jpg", "train", ("first | a", "second a")),
        ("b.jpg", "val", ("b",)),
        ("c.jpg", "test", ("c",)),
    ]
    assert _described(flickr_table.examples(config)) == expected
    assert len(flickr_table.raw_digest(config)) == 64


def test_known_malformed_row_of_results_csv_is_repaired_and_stated(tmp_path, caplog):
    config = _table(
        tmp_path,
        CSV.replace("c.jpg| 0| c", "c.jpg| 4   A dog runs across the grass ."),
        "results.csv",
    )
    assert list(flickr_table.examples(config))[2].captions == ("A dog runs across the grass .",)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "results.csv",
            CSV.replace("b.jpg| 0| b", "b.jpg and text"),
            r"results\.csv: line 4: received 'b\.jpg and text'",
        ),
        (
            "results.csv",
            CSV.replace("b.jpg| 0| b", "b.jpg| x| b"),
            r"results\.csv: line 4 \(comment number\): received 'x'",
        ),
        (
            "results.csv",
            CSV.replace("b.jpg| 0| b", "b.jpg| 0| "),
            r"results\.csv: line 4 \(comment\): received caption ''",
        ),
        (
            "r.token",
            TOKEN.replace("b.jpg#0\tb", "b.jpg#0 b"),
            r"r\.token: line 3: received 'b\.jpg#0 b'",
        ),
        (
            "r.token",
            TOKEN.replace("b.jpg#0", "a.jpg#0"),
            r"r\.token: line 3: comment 0 of image 'a\.jpg' is there twice",
        ),
        (
            "r.token",
            TOKEN.replace("b.jpg#0", "y.jpg#0"),
            r"val\.txt: line 1: image 'b\.jpg' has no captions in .*r\.token",
        ),
    ],
)
def test_flickr_table_names_the_line_of_a_bad_row(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        list(flickr_table.examples(_table(tmp_path, text, name)))


def test_flickr_table_wants_one_json_or_three_lists(tmp_path):
    with pytest.raises(ValueError, match="`splits` of the dataset: received 2 files"):
        flickr_table.examples(_table(tmp_path, TOKEN, splits=("train.txt", "val.txt")))
