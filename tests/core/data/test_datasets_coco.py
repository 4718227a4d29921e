"""COCO's own json: the captions of each image, ids that contradict each other, splits by shares."""

import json

import pytest

from tasks.core.data.datasets import coco_json
from tasks.core.data.shares import Shares
from tests.core.data.caption_samples import SAMPLES, of_split, prepared, read, through_karpathy

SPLITS = ("train", "val", "test")


def _content(samples, first_id=7):
    images, annotations = [], []
    for number, sample in enumerate(samples):
        image_id = first_id + number
        name = f"{sample.split}/{sample.name}"
        images.append({"id": image_id, "file_name": name, "license": 1})
        for text in sample.captions:
            annotations.append({"image_id": image_id, "id": len(annotations), "caption": text})
    return {"info": {}, "images": images, "annotations": annotations, "licenses": []}


def _config(root, **options):
    files = {split: [f"captions_{split}.json"] for split in SPLITS}
    defaults = {"path": str(root / "raw"), "images": ["images"], "shares": None}
    return coco_json.Config(**{**defaults, **files, **options})


@pytest.fixture
def root(tmp_path):
    through = through_karpathy(tmp_path)
    for split in SPLITS:
        content = _content(of_split(split))
        (tmp_path / "raw" / f"captions_{split}.json").write_text(json.dumps(content))
    (tmp_path / "expected").mkdir()
    for name, data in through.items():
        (tmp_path / "expected" / name).write_bytes(data)
    return tmp_path


def test_the_same_pictures_and_captions_as_through_karpathy(root):
    found = prepared(coco_json, _config(root), root / "found")
    assert found == {path.name: path.read_bytes() for path in (root / "expected").iterdir()}


def test_one_file_is_divided_by_shares(root):
    (root / "raw" / "all.json").write_text(json.dumps(_content(SAMPLES)))
    everything = {split: ["all.json"] for split in SPLITS}
    shares = Shares(seed=0, train=0.6, val=0.2, test=0.2)
    found = read(coco_json, _config(root, shares=shares, **everything))
    counts = [sum(example.split == split for example in found) for split in SPLITS]
    assert counts == [3, 1, 1]
    assert [example.captions for example in found] == [sample.captions for sample in SAMPLES]


def test_the_digest_is_that_of_content_splits_and_pictures(root):
    first = coco_json.raw_digest(_config(root))
    assert coco_json.raw_digest(_config(root)) == first
    swapped = _config(root, val=["captions_test.json"], test=["captions_val.json"])
    assert coco_json.raw_digest(swapped) != first
    (root / "raw" / "images" / "more.jpg").write_bytes(b"x")
    assert coco_json.raw_digest(_config(root)) != first


def _changed(root, change):
    content = _content(of_split("train"))
    change(content)
    (root / "raw" / "captions_train.json").write_text(json.dumps(content))
    return _config(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content["annotations"].append({"image_id": 99, "caption": "x"}),
            r"annotations\[6\]\.image_id: received 99, which no entry of `images` has",
        ),
        (
            lambda content: content["images"].append({"id": 7, "file_name": "train/b.jpg"}),
            r"images\[3\]: received the id 7 a second time, first at .*images\[0\]",
        ),
        (
            lambda content: content["images"].append({"id": 70, "file_name": "train/z.jpg"}),
            r"images\[3\]: no entry of `annotations` has the image_id 70",
        ),
        (
            lambda content: content["annotations"].append({"image_id": 7, "caption": ""}),
            r"annotations\[6\]\.caption: received caption ''",
        ),
        (
            lambda content: content["images"].append({"id": True, "file_name": "z.jpg"}),
            r"images\[3\]\.id: received bool True, allowed is a whole number or text",
        ),
        (
            lambda content: content["annotations"].insert(0, {"image_id": 7, "bbox": [0, 0, 1, 1]}),
            "its annotations are boxes, and have no captions",
        ),
        (
            lambda content: content.pop("annotations"),
            "the member 'annotations' is missing",
        ),
    ],
)
def test_what_contradicts_is_named(root, change, message):
    with pytest.raises(ValueError, match=message):
        read(coco_json, _changed(root, change))


def test_a_bad_caption_counts_once_and_its_image_keeps_the_others(root):
    config = _changed(root, lambda content: content["annotations"][0].update(caption=None))
    found = read(coco_json, config, max_left_out=0.2)
    assert found[0].captions == SAMPLES[0].captions[1:]


def test_an_image_of_bad_captions_alone_is_counted_by_them(root):
    config = _changed(root, lambda content: content["annotations"][2].update(caption=""))
    found = read(coco_json, config, max_left_out=0.2)
    assert [example.name for example in found if example.split == "train"] == [
        "train/b.jpg",
        "train/sub/c.webp",
    ]
