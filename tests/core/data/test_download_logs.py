"""The tables of img2dataset: failed downloads are counted in shards and in tables of pictures."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.data.datasets import parquet, webdataset
from tasks.core.data.left_out import LeftOut
from tests.core.data.caption_samples import picture
from tests.faults.hostile_datasets import tar

SPLITS = ("train", "val", "test")
STATUS = ["success", "failed_to_download", "success", "failed_to_resize", None]
KEYS = [f"00000000{number}" for number in range(len(STATUS))]


def _log(**more):
    return pa.table({"key": KEYS, "caption": KEYS, "status": STATUS, **more})


def _shards(root):
    members = []
    for number, key in enumerate(KEYS):
        if STATUS[number] == "success":
            text = {"caption": "two\nlines", "status": "success"}
            members += [
                (f"{key}.jpg", picture(number)),
                (f"{key}.txt", b"two\nlines"),
                (f"{key}.json", json.dumps(text).encode()),
            ]
    for number in range(len(SPLITS)):
        (root / f"0000{number}.tar").write_bytes(tar(members))
        (root / f"0000{number}_stats.json").write_text("{}")
    files = {split: [f"0000{number}.tar"] for number, split in enumerate(SPLITS)}
    return webdataset.Config(path=str(root), **files)


def _counted(reader, config):
    left_out = LeftOut(1.0)
    found = list(reader.examples(config, left_out))
    return found, {reason: tally["count"] for reason, tally in left_out.facts().items()}


def test_a_table_beside_a_shard_counts_its_failures(tmp_path):
    config = _shards(tmp_path)
    before = webdataset.raw_digest(config)
    assert _counted(webdataset, config)[1] == {}
    pq.write_table(_log(), tmp_path / "00000.parquet")
    found, counts = _counted(webdataset, config)
    assert len(found) == 6 and found[0].captions == ("two\nlines",)
    assert counts == {"failed download": 3}
    assert webdataset.raw_digest(config) != before


def test_a_table_without_status_says_nothing(tmp_path):
    config = _shards(tmp_path)
    pq.write_table(pa.table({"key": KEYS, "status": [1] * len(KEYS)}), tmp_path / "00000.parquet")
    assert _counted(webdataset, config)[1] == {}


def test_rows_of_a_table_of_pictures_count_as_failed_downloads(tmp_path):
    pictures = [
        picture(number) if status == "success" else None for number, status in enumerate(STATUS)
    ]
    for split in SPLITS:
        pq.write_table(_log(jpg=pictures), tmp_path / f"{split}.parquet")
    config = parquet.Config(
        path=str(tmp_path),
        rows="images",
        image="jpg",
        captions=["caption"],
        name=None,
        split=None,
        split_values={},
        **{split: [f"{split}.parquet"] for split in SPLITS},
    )
    found, counts = _counted(parquet, config)
    assert len(found) == 6
    assert counts == {"failed download": 9}


def test_a_damaged_table_stops_with_its_name(tmp_path):
    config = _shards(tmp_path)
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"00000\.parquet: not a whole Parquet file"):
        _counted(webdataset, config)
