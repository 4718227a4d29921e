"""Karpathy jsons and image files made here: every good layout, and every bad input named by file
and field.
"""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from tasks.core.data.datasets import karpathy
from tasks.core.foundations import plugins
from tests.core.data.caption_samples import read

NAMES = ("a.jpg", "b.jpg", "c.jpg")
SPLITS = ("train", "val", "test")

# Without a time inside: its bytes are part of the name of a test.
CUT = gzip.compress(b'{"images": []}', mtime=0)[:-9]


def _folder(root, names=NAMES, sub="images"):
    for shade, name in enumerate(names):
        path = root / sub / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_jpeg(50 * shade))


def _jpeg(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (shade, 10, 20)).save(buffer, "JPEG")
    return buffer.getvalue()


def _tar(root, members, name="images.tar", mode="w"):
    with tarfile.open(root / name, mode) as archive:
        for shade, member in enumerate(members):
            data = _jpeg(50 * shade)
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _entry(name, split, *captions, **more):
    return {
        "filename": name,
        "split": split,
        "sentences": [{"raw": text, "tokens": text.split()} for text in captions],
        **more,
    }


def _entries():
    return [
        _entry(name, split, f"{name} one", f"{name} two .")
        for name, split in zip(NAMES, SPLITS, strict=True)
    ]


def _karpathy(root, entries, images=("images",), name="dataset.json", restval_is_train=True):
    data = json.dumps({"dataset": "x", "images": entries}).encode()
    (root / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return karpathy.Config(
        path=str(root), annotations=name, images=list(images), restval_is_train=restval_is_train
    )


def _described(examples):
    return [(example.name, example.split, example.captions) for example in examples]


def _shade(example):
    return int(np.asarray(example.load())[0, 0, 0])


@pytest.mark.parametrize("name", ["dataset.json", "dataset.json.gz"])
def test_karpathy_keeps_names_splits_and_raw_captions(tmp_path, name):
    _folder(tmp_path)
    examples = read(karpathy, _karpathy(tmp_path, _entries(), name=name))
    assert _described(examples)[2] == ("c.jpg", "test", ("c.jpg one", "c.jpg two ."))
    assert [round(_shade(example) / 50) for example in examples] == [0, 1, 2]


@pytest.mark.parametrize(
    "layout",
    [
        "folder of its name",
        "above it",
        "tar without folder",
        "tar with more folders",
        "globs of tars",
    ],
)
def test_images_of_coco_are_found_however_the_files_lie(tmp_path, layout):
    entries = [
        _entry(name, split, "x", filepath="val2014")
        for name, split in zip(NAMES, SPLITS, strict=True)
    ]
    patterns = {
        "folder of its name": ["val2014"],
        "above it": ["."],
        "globs of tars": ["images-*.tar"],
    }.get(layout, ["images.tar"])
    if layout == "tar without folder":
        _tar(tmp_path, [f"./{name}" for name in NAMES])
    elif layout == "tar with more folders":
        _tar(tmp_path, [f"coco/images/val2014/{name}" for name in NAMES])
    elif layout == "globs of tars":
        _tar(tmp_path, NAMES, "images-0.tar")
    else:
        _folder(tmp_path, sub="val2014")
    examples = read(karpathy, _karpathy(tmp_path, entries, patterns))
    assert [example.name for example in examples] == [f"val2014/{name}" for name in NAMES]
    assert [round(_shade(example) / 50) for example in examples] == [0, 1, 2]


def test_restval_counts_as_train_or_is_left_out(tmp_path):
    _folder(tmp_path)
    entries = [_entry("a.jpg", "restval", "x"), *_entries()[1:]]
    assert [e.split for e in read(karpathy, _karpathy(tmp_path, entries))] == [
        "train",
        "val",
        "test",
    ]
    assert [
        e.split for e in read(karpathy, _karpathy(tmp_path, entries, restval_is_train=False))
    ] == ["val", "test"]


def _without(key):
    entry = _entry("a.jpg", "train", "x")
    del entry[key]
    return entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (_without("filename"), r"dataset\.json: images\[0\]: the member 'filename' is missing"),
        (_without("split"), r"dataset\.json: images\[0\]: the member 'split' is missing"),
        (
            _entry("a.jpg", "train"),
            r"dataset\.json: images\[0\]\.sentences: the image has no captions",
        ),
        (
            _entry("a.jpg", "train", "x", " \t"),
            r"dataset\.json: images\[0\]\.sentences\[1\]: received caption ' \\t'",
        ),
        (
            _entry("a.jpg", "train", "\ud800"),
            r"images\[0\]\.sentences\[0\]: received caption '\\ud800'",
        ),
        (
            _entry("a.jpg", "dev", "x"),
            r"images\[0\]\.split: received split 'dev', allowed is one of train, val, test, "
            r"restval",
        ),
        (
            _entry("../a.jpg", "train", "x"),
            r"images\[0\]: received image name '\.\./a\.jpg', allowed is a relative path",
        ),
        (_entry("/etc/a.jpg", "train", "x"), r"images\[0\]: received image name '/etc/a\.jpg'"),
        (_entry("C:\\a.jpg", "train", "x"), r"images\[0\]: received image name"),
        (_entry("", "train", "x"), r"images\[0\]: received image name ''"),
        (_entry(7, "train", "x"), r"images\[0\]\.filename: received int 7, allowed is str"),
        ("a.jpg", r"images\[0\]: received str 'a\.jpg', allowed is an object"),
        (
            {**_entry("a.jpg", "train"), "sentences": [{"raw": 3}]},
            r"images\[0\]\.sentences\[0\]\.raw: received int 3",
        ),
    ],
)
def test_karpathy_names_file_and_field_of_a_bad_entry(tmp_path, entry, message):
    _folder(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(karpathy, _karpathy(tmp_path, [entry, *_entries()[1:]]))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "d.json",
            b'{"images": [\n {"filename": }]}',
            r"d\.json: line 2 column 15: malformed JSON",
        ),
        ("d.json", b"", r"d\.json: line 1 column 1: malformed JSON"),
        ("d.json", b"[" * 200_000, r"d\.json: JSON nested too deeply|d\.json: line"),
        (
            "d.json",
            b'{"x": 1}',
            r"d\.json: the member 'images' is missing; received the members \['x'\]",
        ),
        ("d.json", b'{"images": {}}', r"d\.json\.images: received dict"),
        ("d.json", b'{"images": "\xff"}', r"d\.json: byte 12 is not UTF-8"),
        ("d.json.gz", b"not gzip", r"d\.json\.gz: cannot be read"),
        ("d.json.gz", CUT, r"d\.json\.gz: cannot be read"),
    ],
)
def test_malformed_json_names_file_and_position(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read(
            karpathy,
            karpathy.Config(
                path=str(tmp_path), annotations=name, images=["."], restval_is_train=True
            ),
        )


def test_missing_folder_file_pattern_and_image_say_what_to_change(tmp_path):
    config = _karpathy(tmp_path, _entries(), ["pictures"])
    with pytest.raises(
        FileNotFoundError,
        match=r"has 'pictures', which matches nothing .* holds dataset\.json; change it in "
        r"params\.yaml",
    ):
        read(karpathy, config)
    _folder(tmp_path, NAMES[:1], sub="pictures")
    with pytest.raises(
        ValueError,
        match=r"2 of 3 cannot be used.*\n.*dataset\.json: images\[1\]: image 'b\.jpg' is missing "
        r"in pictures .*the nearest name there is 'a\.jpg'.*\n +also images\[2\]",
    ):
        read(karpathy, config)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no annotation file .*dataset\.json'.* change `annotations`"
    ):
        read(karpathy, config)
    with pytest.raises(FileNotFoundError, match=r"no dataset folder .* change `path`"):
        read(
            karpathy,
            karpathy.Config(
                path=str(tmp_path / "x"), annotations="d", images=["."], restval_is_train=True
            ),
        )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["../up"], "has '../up'"),
        (["/abs"], "has '/abs'"),
        ([], "`images` of the dataset is empty"),
    ],
)
def test_image_patterns_stay_inside_the_dataset_folder(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        read(karpathy, _karpathy(tmp_path, _entries(), images))


def test_a_name_of_two_files_is_refused(tmp_path):
    _folder(tmp_path, sub="one")
    _folder(tmp_path, sub="two")
    with pytest.raises(
        ValueError, match=r"images\[0\]: image 'a\.jpg' belongs to 2 files .*narrow `images`"
    ):
        read(karpathy, _karpathy(tmp_path, _entries(), ["*"]))
    assert len(read(karpathy, _karpathy(tmp_path, _entries(), ["two"]))) == 3


def test_two_names_for_one_file_are_refused(tmp_path):
    _tar(tmp_path, NAMES)
    entries = [
        _entry("a.jpg", "train", "x", filepath="one"),
        _entry("a.jpg", "test", "x", filepath="two"),
    ]
    with pytest.raises(
        ValueError,
        match=r"images\[1\]: image 'two/a\.jpg' and image 'one/a\.jpg' .* are both a\.jpg of "
        r".*images\.tar",
    ):
        read(karpathy, _karpathy(tmp_path, entries, ["images.tar"]))
    with pytest.raises(ValueError, match=r"images\[1\]: image '\./a\.jpg' and image 'a\.jpg'"):
        read(
            karpathy,
            _karpathy(
                tmp_path,
                [_entry("a.jpg", "train", "x"), _entry("./a.jpg", "test", "x")],
                ["images.tar"],
            ),
        )


@pytest.mark.parametrize("damage", ["compressed", "truncated", "not a tar"])
def test_unusable_tar_is_named(tmp_path, damage):
    _tar(tmp_path, NAMES, mode="w:gz" if damage == "compressed" else "w")
    tar = tmp_path / "images.tar"
    if damage == "truncated":
        tar.write_bytes(tar.read_bytes()[: 512 + 300])
    elif damage == "not a tar":
        tar.write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"images\.tar: not a whole, uncompressed tar"):
        read(karpathy, _karpathy(tmp_path, _entries(), ["images.tar"]))


def test_digest_follows_annotations_and_images_but_not_the_place_and_not_the_time(tmp_path):
    def build(root):
        root.mkdir()
        _folder(root)
        return _karpathy(root, _entries())

    one, two = build(tmp_path / "one"), build(tmp_path / "two")
    digest = karpathy.raw_digest(one)
    assert digest == karpathy.raw_digest(two)
    picture = tmp_path / "two" / "images" / "b.jpg"
    os.utime(picture, ns=(10**18, 10**18))
    assert karpathy.raw_digest(two) == digest
    content = picture.read_bytes()
    picture.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert karpathy.raw_digest(two) != digest
    assert karpathy.raw_digest(_karpathy(tmp_path / "one", _entries()[:2])) != digest


def test_every_dataset_plugin_has_the_contract():
    for name in plugins.available("datasets"):
        module = plugins.load("datasets", name)
        assert callable(module.examples) and callable(module.raw_digest) and module.Config.__doc__
