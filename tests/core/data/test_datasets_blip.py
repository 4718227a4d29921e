"""The json rows of ALBEF and BLIP: grouped by image, and every bad row named by file and field."""

import json

import pytest
from PIL import Image

from tasks.core.data.datasets import blip_json
from tests.core.data.caption_samples import read


def _pictures(root, names, sub):
    for name in names:
        path = root / "images" / sub / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


def _described(examples):
    return [(example.name, example.split, example.captions) for example in examples]


def _blip(root, train=None, val=None, test=None):
    rows = {
        "train": [
            {"image": f"sub/{name}.jpg", "caption": text, "image_id": name}
            for name, text in (("a", "one"), ("b", "three"), ("a", "two"))
        ],
        "val": [{"image": "other/c.jpg", "caption": ["v1", "v2"]}],
        "test": [{"image": "other/d.jpg", "caption": ["t1"]}],
    }
    rows.update(
        {
            split: given
            for split, given in (("train", train), ("val", val), ("test", test))
            if given is not None
        }
    )
    for split in rows:
        (root / f"f_{split}.json").write_text(json.dumps(rows[split]))
    _pictures(root, ("a.jpg", "b.jpg"), "sub")
    _pictures(root, ("c.jpg", "d.jpg"), "other")
    return blip_json.Config(
        path=str(root),
        train="f_train.json",
        val="f_val.json",
        test="f_test.json",
        images=["images"],
    )


def test_blip_groups_train_rows_by_image(tmp_path):
    assert _described(read(blip_json, _blip(tmp_path))) == [
        ("sub/a.jpg", "train", ("one", "two")),
        ("sub/b.jpg", "train", ("three",)),
        ("other/c.jpg", "val", ("v1", "v2")),
        ("other/d.jpg", "test", ("t1",)),
    ]
    assert len(blip_json.raw_digest(_blip(tmp_path))) == 64


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"train": [{"image": "sub/a.jpg", "caption": ["x"]}]},
            r"f_train\.json: \[0\]\.caption: received list",
        ),
        (
            {"train": [{"image": "sub/a.jpg", "caption": ""}]},
            r"f_train\.json: \[0\]\.caption: received caption ''",
        ),
        ({"train": [{"caption": "x"}]}, r"f_train\.json: \[0\]: the member 'image' is missing"),
        ({"train": ["x"]}, r"f_train\.json: \[0\]: received str"),
        ({"train": {"image": "x"}}, r"f_train\.json: received dict"),
        (
            {
                "train": [
                    {"image": "sub/a.jpg", "caption": "x", "image_id": 1},
                    {"image": "sub/a.jpg", "caption": "y", "image_id": 2},
                ]
            },
            r"\[1\]\.image_id: received 2 for image 'sub/a\.jpg', which has 1 at "
            r".*f_train\.json: \[0\]",
        ),
        (
            {"val": [{"image": "other/c.jpg", "caption": "x"}]},
            r"f_val\.json: \[0\]\.caption: received str",
        ),
        (
            {"test": [{"image": "other/c.jpg", "caption": []}]},
            r"f_test\.json: \[0\]\.caption: the image has no captions",
        ),
    ],
)
def test_blip_names_file_and_field_of_a_bad_row(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read(blip_json, _blip(tmp_path, **rows))
