"""Plain folders: pictures beside text, splits by folders or shares, and what is no example."""

import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.core.data.datasets import folder
from tasks.core.data.left_out import LeftOut
from tasks.core.data.shares import Shares
from tests.core.data.caption_samples import SAMPLES, picture, read

SPLITS = ("train", "val", "test")


def _config(root, **options):
    folders = {split: [split] for split in SPLITS}
    return folder.Config(**{"path": str(root), "shares": None, **folders, **options})


@pytest.fixture
def raw(tmp_path):
    place = tmp_path / "folders"
    for sample in SAMPLES:
        path = place / sample.split / sample.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data)
        path.with_suffix(".txt").write_text("\n".join(sample.captions))
    return place


def test_pictures_and_captions_belong_together(raw):
    found = {example.name: example for example in read(folder, _config(raw))}
    assert list(found) == sorted(f"{sample.split}/{sample.name}" for sample in SAMPLES)
    for sample in SAMPLES:
        example = found[f"{sample.split}/{sample.name}"]
        expected = Image.open(io.BytesIO(sample.data))
        assert (example.split, example.captions) == (sample.split, sample.captions)
        assert example.load().tobytes() == expected.tobytes()


def test_captions_may_be_those_of_a_json(raw):
    (raw / "train" / "b.txt").unlink()
    (raw / "train" / "b.json").write_text(json.dumps({"captions": ["x", "y"]}))
    found = {example.name: example.captions for example in read(folder, _config(raw))}
    assert found["train/b.jpg"] == ("x", "y")


def test_lines_of_another_system_are_captions_too(raw):
    (raw / "train" / "b.txt").write_bytes(b"one\r\rtwo\r")
    found = {example.name: example.captions for example in read(folder, _config(raw))}
    assert found["train/b.jpg"] == ("one", "two")


def test_a_name_with_dots_keeps_them(raw):
    (raw / "train" / "22.06.jpg").write_bytes(picture(9))
    (raw / "train" / "22.06.txt").write_text("dots\n\n  \n")
    found = {example.name: example.captions for example in read(folder, _config(raw))}
    assert found["train/22.06.jpg"] == ("dots",)


def test_splits_by_a_seeded_share(raw):
    whole = {split: ["."] for split in SPLITS}
    shares = Shares(seed=1, train=0.6, val=0.2, test=0.2)
    found = read(folder, _config(raw, shares=shares, **whole))
    assert sorted(example.split for example in found) == ["test", "train", "train", "train", "val"]
    assert len({example.name for example in found}) == 5
    with pytest.raises(ValueError, match="`shares` is null"):
        read(folder, _config(raw, **whole))


@pytest.fixture
def beside(tmp_path):
    """One folder of pictures that are named by their split, each with a json."""
    place = tmp_path / "one" / "d"
    place.mkdir(parents=True)
    for number, split in enumerate(SPLITS):
        (place / f"x_{split}.png").write_bytes(picture(number, "PNG"))
        (place / f"x_{split}.json").write_text(json.dumps({"caption": split}))
    return place.parent


def test_the_picture_decides_the_split(beside):
    globs = {"train": ["d"], "val": ["d/*_val.png"], "test": ["d/*_test.png"]}
    shares = Shares(seed=0, train=0.1, val=0.45, test=0.45)
    found = read(folder, _config(beside, shares=shares, **globs))
    assert {example.name: example.split for example in found} == {
        f"d/x_{split}.png": split for split in SPLITS
    }


def test_a_caption_file_listed_for_another_split_is_refused(beside):
    globs = {split: [f"d/x_{split}.png"] for split in SPLITS}
    globs["train"] += ["d/*.json"]
    with pytest.raises(ValueError, match=r"2 x .*: .*received x_test\.json in train, but the pict"):
        read(folder, _config(beside, **globs))


def test_a_name_that_is_no_text_is_counted_with_its_file(raw):
    name = os.fsdecode(b"caf\xe9.jpg")
    (raw / "train" / name).write_bytes(picture(8))
    (raw / "train" / name).with_suffix(".txt").write_text("a cup")
    whole = {split: ["."] for split in SPLITS}
    config = _config(raw, shares=Shares(seed=1, train=0.6, val=0.2, test=0.2), **whole)
    with pytest.raises(ValueError, match=r"1 of 6 .*\n.*no relative path: .*caf\\udce9"):
        read(folder, config)
    assert len(read(folder, config, max_left_out=0.2)) == 5


def test_a_linked_folder_is_not_another_split(raw):
    (raw / "test" / "t.jpg").unlink()
    (raw / "test" / "t.txt").unlink()
    (raw / "test").rmdir()
    (raw / "test").symlink_to("train")
    with pytest.raises(ValueError, match=r"3 of 7 cannot .*\n  3 x picture in several splits"):
        read(folder, _config(raw))


def test_the_digest_is_that_of_what_is_read(raw):
    first = folder.raw_digest(_config(raw))
    (raw / "train" / "notes.md").write_text("no file of an example")
    assert folder.raw_digest(_config(raw)) == first
    (raw / "train" / "b.txt").write_text("another caption")
    assert folder.raw_digest(_config(raw)) != first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda raw: (raw / "train/b.txt").unlink(), r"key 'train/b': the image has no captions"),
        (lambda raw: (raw / "train/b.jpg").unlink(), r"key 'train/b': received b\.txt, allowed is"),
        (
            lambda raw: (raw / "train/b.png").write_bytes(picture(1, "PNG")),
            r"key 'train/b': received b\.jpg and b\.png and b\.txt",
        ),
        (
            lambda raw: (raw / "train/b.txt").write_bytes(b"caf\xe9"),
            r"key 'train/b'\.txt: byte 3 is not UTF-8",
        ),
        (lambda raw: (raw / "train/b.txt").write_text(" \n"), "the image has no captions"),
        (
            lambda raw: (raw / "train/b.TXT").write_text("lost"),
            r"1 x several caption files of one key: .*received b\.TXT and b\.txt, allowed is one",
        ),
        (
            lambda raw: [(raw / f"train/b.{end}").write_text("{}") for end in ("json", "JSON")],
            r"1 x several caption files of one key: .*received b\.JSON and b\.json",
        ),
        (
            lambda raw: os.truncate(raw / "train/b.txt", 1 << 40),
            "the file has 1,099,511,627,776 bytes",
        ),
        (lambda raw: (raw / "val").rename(raw / "dev"), "`val` of the dataset has 'val'"),
    ],
)
def test_what_is_no_example_is_named(raw, make, message):
    make(raw)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(folder, _config(raw))


def test_other_files_are_counted_and_stop_nothing(raw):
    (raw / "train" / ".DS_Store").write_bytes(b"x")
    (raw / "train" / "features.npz").write_bytes(b"x")
    (raw / "train" / "labels.json").write_text("{}")
    os.mkfifo(raw / "train" / "pipe.jpg")
    left_out = LeftOut(0.0)
    assert len(list(folder.examples(_config(raw), left_out))) == 5
    assert {reason: tally["count"] for reason, tally in left_out.facts().items()} == {
        "hidden file or file of an operating system": 1,
        "file that no rule reads": 2,
        "named pipe, device or broken link among the files": 1,
    }


def test_failed_downloads_of_img2dataset_are_counted(raw):
    status = ["success", "failed_to_download", "success", "failed_to_resize"]
    pq.write_table(pa.table({"status": status, "url": status}), raw / "train.parquet")
    config = _config(raw, train=["train*"])
    with pytest.raises(ValueError, match=r"2 of 7 cannot be used.*\n.*'failed_to_download'"):
        read(folder, config)
    assert len(read(folder, config, max_left_out=0.3)) == 5
