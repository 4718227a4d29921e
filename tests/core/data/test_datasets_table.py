"""The tables of Flickr30K: both layouts, both kinds of split, the known malformed row and every
other one.
"""

import json

import pytest
from PIL import Image

from tasks.core.data.datasets import flickr_table
from tests.core.data.caption_samples import read

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
    assert _described(read(flickr_table, config)) == expected
    assert len(flickr_table.raw_digest(config)) == 64


def test_known_malformed_row_of_results_csv_is_repaired_and_stated(tmp_path, caplog):
    config = _table(
        tmp_path,
        CSV.replace("c.jpg| 0| c", "c.jpg| 4   A dog runs across the grass ."),
        "results.csv",
    )
    assert read(flickr_table, config)[2].captions == ("A dog runs across the grass .",)
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
        read(flickr_table, _table(tmp_path, text, name))


def test_flickr_table_wants_one_json_or_three_lists(tmp_path):
    with pytest.raises(ValueError, match="`splits` of the dataset: received 2 files"):
        read(flickr_table, _table(tmp_path, TOKEN, splits=("train.txt", "val.txt")))


KAGGLE = (
    'image,caption\na.jpg,second a\nc.jpg,c\na.jpg,"first , with ""quotes"""\nb.jpg,b , unquoted\n'
)


@pytest.mark.parametrize("name", ["captions.txt", "captions.csv"])
@pytest.mark.parametrize("layout", ["kaggle", "windows", "numbered", "open_clip"])
def test_csv_with_quotes_is_read_in_the_order_of_its_rows(tmp_path, name, layout):
    text = {
        "kaggle": KAGGLE,
        "windows": "\ufeff" + KAGGLE.replace("\n", "\r\n"),
        "numbered": (
            "image_name,comment_number,comment\na.jpg, 0, second a\nc.jpg, 0, c\n"
            'a.jpg, 1, "first , with ""quotes"""\nb.jpg, 0, b , unquoted\n'
        ),
        "open_clip": (
            "filepath\ttitle\na.jpg\tsecond a\nc.jpg\tc\n"
            'a.jpg\t"first , with ""quotes"""\nb.jpg\tb , unquoted\n'
        ),
    }[layout]
    assert _described(read(flickr_table, _table(tmp_path, text, name))) == [
        ("a.jpg", "train", ("second a", 'first , with "quotes"')),
        ("b.jpg", "val", ("b , unquoted",)),
        ("c.jpg", "test", ("c",)),
    ]


@pytest.mark.parametrize("separator", ["|", ","])
def test_a_line_break_inside_quotes_makes_no_second_caption(tmp_path, separator):
    text = (
        'image_name|comment_number|comment\na.jpg|0|"a dog\nruns\n, fast"\nb.jpg|0|b\nc.jpg|0|c\n'
    )
    config = _table(tmp_path, text.replace("|", separator), "results.csv")
    assert read(flickr_table, config)[0].captions == ("a dog\nruns\n, fast",)


def test_a_quote_that_is_never_closed_is_named(tmp_path):
    text = CSV.replace("second a", '"second a')
    with pytest.raises(
        ValueError, match=r"results\.csv: line 3: received 'a\.jpg\| 1\| \"second a'"
    ):
        read(flickr_table, _table(tmp_path, text, "results.csv"))


def test_quotes_around_a_part_of_a_caption_stay(tmp_path):
    text = CSV.replace("second a", '" Cafe Express " sign').replace("0| c\n", '0| the "c"\n')
    examples = read(flickr_table, _table(tmp_path, text, "results.csv"))
    assert examples[0].captions[1] == '" Cafe Express " sign'
    assert examples[2].captions == ('the "c"',)


@pytest.mark.parametrize(
    ("name", "text"),
    [("results.csv", CSV.replace("image_name", "Image")), ("results.tsv", CSV), ("t.txt", CSV)],
)
def test_a_header_or_separator_that_is_not_known_is_spoken_of(tmp_path, name, text):
    with pytest.raises(ValueError, match=r"line 1.*header"):
        read(flickr_table, _table(tmp_path, text, name))


def test_all_bad_rows_are_found_and_images_that_no_split_names_are_counted(tmp_path):
    text = TOKEN + "a.jpg#2\t ...\nbroken line\n"
    config = _table(tmp_path, text)
    with pytest.raises(
        ValueError,
        match=r"2 of 5 (.|\n)*caption without a word: .*line 6(.|\n)*malformed row: .*line 7"
        r"(.|\n)*besides, 1 x image that no split names: z\.jpg",
    ):
        read(flickr_table, config)
    assert read(flickr_table, config, max_left_out=0.4)[0].captions == ("first | a", "second a")
