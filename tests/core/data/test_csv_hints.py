"""Tables of text that are read otherwise than their author meant: the run says so."""

import logging

import pytest

from tasks.core.data.datasets import csv
from tasks.core.data.left_out import EMPTY_FILE, LeftOut
from tests.core.data.test_datasets_csv import csv_options

HEADER = "split,file,caption,caption_2,Captions 3,licence\n"
ROWS = "train,a.jpg,a dog,a hound,a pet,mit\nval,b.jpg,b,b,b,mit\ntest,c.jpg,c,c,c,mit\n"


def read(root, text, left_out=None, **options):
    (root / "images").mkdir(exist_ok=True)
    (root / "table.csv").write_text(text)
    return csv.read_annotations(csv_options(root, **options), left_out or LeftOut(0.0))


def warnings(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def test_columns_that_are_named_like_captions_and_are_not_read_are_told(tmp_path, caplog):
    assert len(read(tmp_path, HEADER + ROWS)) == 3
    (told,) = warnings(caplog)
    assert "2 columns" in told and "'caption_2', 'Captions 3'" in told and "licence" not in told


def test_columns_that_are_all_read_are_not_told(tmp_path, caplog):
    read(tmp_path, HEADER + ROWS, captions=["caption", "caption_2", "Captions 3"])
    assert warnings(caplog) == []


def test_a_table_with_a_header_alone_is_counted(tmp_path):
    left_out = LeftOut(0.0, str(tmp_path))
    assert read(tmp_path, HEADER, left_out) == []
    assert left_out.facts() == {EMPTY_FILE: {"count": 1, "first": ["table.csv"]}}


def test_a_table_whose_rows_are_all_refused_is_not_called_empty(tmp_path):
    left_out = LeftOut(1.0, str(tmp_path))
    read(tmp_path, HEADER + "train,a.jpg\n", left_out)
    assert EMPTY_FILE not in left_out.facts() and len(left_out.facts()) == 1


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_a_table_of_another_delimiter_is_told_which_one_it_has(tmp_path, sign):
    with pytest.raises(
        ValueError, match=r"seem to be separated by .*change `file`, or `delim"
    ) as e:
        read(tmp_path, (HEADER + ROWS).replace(",", sign))
    assert repr(sign) in str(e.value)


def test_a_mistyped_column_is_answered_with_the_one_that_was_meant(tmp_path):
    with pytest.raises(ValueError, match=r"'fil' \(did you mean 'file'\?\) is missing"):
        read(tmp_path, HEADER + ROWS, file="fil")
