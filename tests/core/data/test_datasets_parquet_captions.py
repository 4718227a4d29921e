"""Parquet tables with one row a caption: rows of one image are joined wherever they are, and
contradictions are named.
"""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.data.datasets import parquet
from tests.core.data.caption_samples import SAMPLES, Sample, prepared, read, through_karpathy

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
VALUES = {"train": "train", "val": "val", "test": "test"}


def _config(root, **options):
    splits = {split: ["all.parquet"] for split in VALUES}
    named = {
        "rows": "captions",
        "image": "image",
        "captions": ["text"],
        "name": "file",
        "split": "part",
        "split_values": VALUES,
    }
    return parquet.Config(path=str(root), **{**splits, **named, **options})


def _rows(kind: str) -> list[dict[str, object]]:
    """One row a caption, the rows of one image apart: first captions of all images, then second
    ones.
    """
    longest = max(len(sample.captions) for sample in SAMPLES)
    return [
        _row(sample, place, kind)
        for place in range(longest)
        for sample in SAMPLES
        if place < len(sample.captions)
    ]


def _row(sample: Sample, place: int, kind: str) -> dict[str, object]:
    name = f"{sample.split}/{sample.name}"
    image = name if kind == "path" else {"bytes": sample.data, "path": name}
    return {"image": image, "text": sample.captions[place], "file": name, "part": sample.split}


def _write(root, rows, kind="struct"):
    root.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(
        {
            "image": pa.string() if kind == "path" else STRUCT,
            "text": pa.string(),
            "file": pa.string(),
            "part": pa.string(),
        }
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), root / "all.parquet", row_group_size=2)
    return root


@pytest.mark.parametrize(("kind", "name"), [("struct", "file"), ("path", "file"), ("path", None)])
def test_rows_of_one_image_are_joined_to_the_bytes_of_karpathys_layout(tmp_path, kind, name):
    expected = through_karpathy(tmp_path)
    rows = _rows(kind)
    assert len(rows) > len(SAMPLES)
    raw = _write(tmp_path / "raw" / "images", rows, kind)
    assert prepared(parquet, _config(raw, name=name), tmp_path / "out") == expected


def test_rows_that_contradict_each_other_or_have_no_name_are_named(tmp_path):
    rows = _rows("struct")
    again = {**rows[0], "part": "val" if rows[0]["part"] != "val" else "test"}
    raw = _write(tmp_path / "splits", [*rows, again])
    with pytest.raises(
        ValueError,
        match=rf"row {len(rows)}: received '.*' in {again['part']}, .*row 0 has it in "
        rf"{rows[0]['part']}",
    ):
        read(parquet, _config(raw))
    with pytest.raises(
        ValueError,
        match=r"row 0\.image: holds a picture, .* received `rows: captions` with `name: null`; "
        r"allowed is",
    ):
        read(parquet, _config(raw, name=None))
    (tmp_path / "raw").mkdir()
    through_karpathy(tmp_path / "raw")
    paths = _rows("path")
    folder = _write(
        tmp_path / "raw" / "raw" / "images", [*paths, {**paths[0], "image": "train/z.jpg"}], "path"
    )
    (folder / "train" / "z.jpg").write_bytes(SAMPLES[0].data)
    with pytest.raises(
        ValueError,
        match=rf"row {len(paths)}: .* allowed is one split and one picture for all captions of "
        r"an image",
    ):
        read(parquet, _config(folder))


def test_one_picture_has_one_name_however_its_path_is_written(tmp_path):
    (tmp_path / "raw").mkdir()
    through_karpathy(tmp_path / "raw")
    rows = _rows("path")
    again = {**rows[0], "image": f"./{rows[0]['image']}"}
    folder = _write(tmp_path / "raw" / "raw" / "images", [*rows, again], "path")
    found = read(parquet, _config(folder, name=None))
    assert [example.name for example in found] == [
        f"{sample.split}/{sample.name}" for sample in SAMPLES
    ]
    assert found[0].captions == (*SAMPLES[0].captions, SAMPLES[0].captions[0])
    _write(folder, [*rows, {**again, "file": "other"}], "path")
    message = (
        rf"row {len(rows)}: received 'other' with the picture .* has under 'train/b\.jpg'; "
        r"allowed is one name"
    )
    with pytest.raises(ValueError, match=message):
        read(parquet, _config(folder))


def test_with_a_row_an_image_a_repeated_path_is_refused_and_the_other_reading_named(tmp_path):
    (tmp_path / "raw").mkdir()
    through_karpathy(tmp_path / "raw")
    folder = _write(tmp_path / "raw" / "raw" / "images", _rows("path"), "path")
    with pytest.raises(
        ValueError,
        match=r"is the picture of .*row 0 too; .* set `rows: captions` of the dataset in "
        r"params\.yaml",
    ):
        read(parquet, _config(folder, rows="images"))
