"""What the report says about the part of a dataset that was not used."""

import pytest

from tasks import report
from tasks.store import artifacts
from tasks.store.artifacts import Key, Ref


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"left_out": {}}, "nothing"),
        ({}, "not counted when this dataset was prepared"),
        (
            {
                "left_out": {
                    "picture cut short": {"count": 2, "first": ["a.jpg", "b.jpg"]},
                    "caption without a word": {"count": 1, "first": ["c.jpg: caption 3"]},
                }
            },
            "1 x caption without a word, first c.jpg: caption 3; "
            "2 x picture cut short, first a.jpg",
        ),
    ],
)
def test_a_report_counts_what_of_a_dataset_was_left_out(tmp_path, facts, text):
    manifest = artifacts.seal(tmp_path, Key("prepare_data", {}, {}, "code"), facts)
    assert report._left_out(Ref(str(tmp_path), manifest.digest)) == text
