"""Parquet tables as other writers make them, and their bad rows: all are found, or left out."""

import pyarrow as pa
import pytest

from tasks.core.data.datasets import parquet
from tests.core.data.caption_samples import of_split, picture, read
from tests.core.data.test_datasets_parquet import _columns, _dataset, _write


def test_views_whole_numbers_and_fields_of_structs_are_read(tmp_path):
    sentences = [[{"raw": "one", "id": 1}, {"raw": "two", "id": 2}], [{"raw": "x"}], [{"raw": "y"}]]
    changes = {
        "image": pa.array([picture(n) for n in range(3)], pa.binary_view()),
        "sentences": pa.array(sentences),
        "more": pa.array(["a", "b", "c"], pa.string_view()),
        "file": [7, 8, 9],
    }
    config = _dataset(tmp_path, changes, name="file", captions=["sentences.raw", "more"])
    for split in ("val", "test"):
        columns = {"sentences": pa.array([[{"raw": "v"}]]), "more": ["w"]}
        _write(tmp_path / f"{split}-0.parquet", {**_columns(of_split(split)), **columns})
    examples = read(parquet, config)
    assert [(example.name, example.captions) for example in examples[:2]] == [
        ("7", ("one", "two", "a")),
        ("8", ("x", "b")),
    ]
    assert examples[1].load().size[1] == 12 and len(parquet.raw_digest(config)) == 64


def test_every_bad_row_is_found_in_one_run_and_may_be_left_out(tmp_path):
    changes = {"caption": ['["a", "b"]', "x", ""], "image": [picture(0), None, picture(2)]}
    config = _dataset(tmp_path, changes, name="file")
    with pytest.raises(
        ValueError,
        match=r"3 of 5 (.|\n)*list or object written as text: .*row 0\.caption(.|\n)*missing "
        r"picture: .*row 1\.image(.|\n)*caption without a word: .*row 2\.caption",
    ):
        read(parquet, config)
    assert len(read(parquet, config, max_left_out=0.6)) == 2


@pytest.mark.parametrize("name", ["a\\x.jpg", "a/cafe\u0301.jpg", "a/caf\u00e9.jpg"])
def test_paths_in_a_table_are_found_however_they_are_spelt(tmp_path, name):
    (tmp_path / "a").mkdir()
    for file in ("x.jpg", "caf\u00e9.jpg"):
        (tmp_path / "a" / file).write_bytes(picture(3))
    config = _dataset(tmp_path, {"image": [name, "missing.jpg", "a/x.jpeg"]})
    with pytest.raises(
        ValueError, match=r"2 of 5 (.|\n)*missing\.jpg' is missing in .*the nearest name there is"
    ):
        read(parquet, config)


def test_a_picture_in_two_splits_by_a_link_is_refused(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number))
    (tmp_path / "copy.jpg").symlink_to("1.jpg")
    config = _dataset(tmp_path, {"image": ["0.jpg", "1.jpg", "2.jpg"]})
    _write(tmp_path / "val-0.parquet", {**_columns(of_split("val")), "image": ["copy.jpg"]})
    with pytest.raises(ValueError, match=r"1 x picture in several splits: .*copy\.jpg in val"):
        read(parquet, config)


def test_another_format_and_a_broken_link_in_place_of_a_table_are_named(tmp_path):
    config = _dataset(tmp_path)
    (tmp_path / "val-0.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"val-0\.parquet: not a whole .*it is a git-LFS pointer"):
        read(parquet, config)
    (tmp_path / "val-0.parquet").unlink()
    (tmp_path / "val-0.parquet").symlink_to("nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"matches val-0\.parquet, a broken link or no file"
    ):
        read(parquet, config)
