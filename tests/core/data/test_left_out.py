"""What is left out: all of it is found in one run, counted, and refused above the share allowed."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from tasks.core.data.datasets import webdataset
from tasks.core.data.left_out import LeftOut, Unusable, printable
from tasks.core.data.preparation import prepare
from tests.core.data.caption_samples import picture

SPLITS = ("train", "val", "test")


def _shards(root, members):
    """Shards of ten good pictures in train and one in val and test, and the members in train."""
    good = {f"{number}.jpg": picture(number) for number in range(10)}
    good |= {f"{number}.txt": f"caption {number}".encode() for number in range(10)}
    one = {"0.jpg": picture(0), "0.txt": b"a"}
    for split, content in zip(SPLITS, ({**members, **good}, one, one), strict=True):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return webdataset.Config(path=str(root), **{split: [f"{split}.tar"] for split in SPLITS})


BAD = {
    "cut.jpg": picture(20)[:-200],
    "cut.txt": b"its picture is cut",
    "page.jpg": b"<!DOCTYPE html><html></html>",
    "page.txt": b"its picture is a web page",
    "null.jpg": picture(21),
    "null.json": json.dumps({"caption": None}).encode(),
    "lost.json": json.dumps({"caption": "x", "status": "failed_to_download"}).encode(),
    "22.06.jpg": picture(22),
    "22.06.txt": b"dots",
    "0.cls": b"3",
}


def _prepare(root, share):
    work = root / "work"
    work.mkdir(exist_ok=True)
    left_out = LeftOut(share)
    examples = webdataset.examples(_shards(root, BAD), left_out)
    return work, prepare(examples, work, image_size=8, max_pixels=10_000, left_out=left_out)


def test_one_run_names_every_reason_and_every_place(tmp_path):
    with pytest.raises(ValueError, match=r"^6 of 18 cannot be used, .*max_left_out") as caught:
        _prepare(tmp_path, 0.3)
    message = str(caught.value)
    for named in (
        r"1 x damaged picture: ",
        "member cut.jpg",
        "1 x file that is a web page, no picture: ",
        "1 x null in place of a value: ",
        "1 x failed download: ",
        "key 'lost'",
        "2 x member that no rule reads: ",
        "key '22'.06.txt",
        "1 x member beside an example that no rule reads: ",
    ):
        assert named in message
    assert list((tmp_path / "work").iterdir()) == []


def test_what_may_be_left_out_is_counted_and_the_rest_is_stored_in_order(tmp_path):
    work, facts = _prepare(tmp_path, 0.34)
    assert facts["num_images"] == {"train": 10, "val": 1, "test": 1}
    counts = {reason: stored["count"] for reason, stored in facts["left_out"].items()}
    assert sum(counts.values()) == 7 and counts["member that no rule reads"] == 2
    assert "cut.jpg" in facts["left_out"]["damaged picture"]["first"][0]
    images = load_file(work / "images.safetensors")["images"]
    assert images.shape == (12, 8, 8, 3)
    clean = tmp_path / "clean"
    clean.mkdir()
    left_out = LeftOut(0.0)
    examples = webdataset.examples(_shards(tmp_path, {}), left_out)
    prepare(examples, clean, image_size=8, max_pixels=10_000, left_out=left_out)
    assert np.array_equal(images, load_file(clean / "images.safetensors")["images"])
    for name in ("images.parquet", "captions.parquet"):
        assert pd.read_parquet(work / name).equals(pd.read_parquet(clean / name))


def test_a_split_that_loses_all_its_pictures_is_refused(tmp_path):
    config = _shards(tmp_path, {})
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        for name, data in {"0.jpg": b"x", "0.txt": b"a"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    left_out = LeftOut(0.9)
    with pytest.raises(ValueError, match="split 'val' has no images"):
        prepare(
            webdataset.examples(config, left_out),
            tmp_path,
            image_size=8,
            max_pixels=10_000,
            left_out=left_out,
        )


def test_a_share_at_the_limit_is_allowed_and_mentions_never_count():
    left_out = LeftOut(0.25)
    left_out.refuse(Unusable("a.json: [3]", "damaged", "is damaged"))
    for number in range(30):
        left_out.mention("not wanted", f"b.json: [{number}]")
    left_out.check(3)
    with pytest.raises(ValueError, match=r"1 of 3 .*\n  1 x damaged: a\.json: \[3\]: is damaged"):
        left_out.check(2)
    assert left_out.facts()["not wanted"] == {
        "count": 30,
        "first": ["b.json: [0]", "b.json: [1]", "b.json: [2]"],
    }


@pytest.mark.parametrize("root", ["/data/my (raw)", "raw/", "./raw"])
def test_the_facts_name_places_from_the_dataset_folder(root):
    left_out, folder = LeftOut(1.0, root), Path(root)
    left_out.mention("a file", str(folder / "a.md"))
    left_out.refuse(Unusable(f"{folder}: key 'a'", "a key", "is bad"))
    left_out.refuse(Unusable(f"{folder / 'a.jpg'} ({folder / 'd.json'}: [3])", "a row", "is bad"))
    left_out.refuse(Unusable(f"{folder / 'x' / folder.name / 'a.jpg'}", "a picture", "is bad"))
    assert {reason: tally["first"] for reason, tally in left_out.facts().items()} == {
        "a file": ["a.md"],
        "a key": ["key 'a'"],
        "a row": ["a.jpg (d.json: [3])"],
        "a picture": [f"x/{folder.name}/a.jpg"],
    }


def test_of_many_places_the_first_are_named_and_the_rest_counted():
    left_out = LeftOut(0.0)
    for number in range(50):
        left_out.refuse(Unusable(f"a.json: [{number}]", "damaged", "is damaged"))
    with pytest.raises(ValueError, match=r"also \[1\], \[2\],.* \[19\] and 30 more$"):
        left_out.check(1)


def test_control_characters_and_lone_surrogates_are_escaped():
    assert printable("a\x1b[31m\udce9\u200bb caf\u00e9") == "a\\x1b[31m\\udce9\\u200bb caf\u00e9"
    assert str(Unusable("a\nb", "x", "c\rd")) == "a\\nb: c\\rd"
