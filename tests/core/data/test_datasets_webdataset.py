"""Shards of tar files: the same bytes as from Karpathy's layout, and every bad shard named by file,
key and field.
"""

import io
import json
import tarfile

import pytest

from tasks.core.data.datasets import webdataset
from tasks.core.data.left_out import EMPTY_FILE, LeftOut
from tests.core.data.caption_samples import of_split, picture, prepared, read, through_karpathy

SPLITS = ("train", "val", "test")
GOOD = {"a.jpg": picture(0), "a.txt": b"a"}


def _shard(path, members, mode="w"):
    """Write members in order; a list of (name, data) pairs may hold a name twice, and data None
    makes a link.
    """
    with tarfile.open(path, mode) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "elsewhere"
            else:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data or b""))


def _config(root, **options):
    return webdataset.Config(
        path=str(root), **{split: [f"{split}-*.tar"] for split in SPLITS} | options
    )


def _dataset(root, members=GOOD):
    """Three shards with one example each; the members of that of train may be given."""
    root.mkdir(exist_ok=True)
    for split in SPLITS:
        _shard(root / f"{split}-0.tar", members if split == "train" else GOOD)
    return _config(root)


def _as_json(captions):
    return json.dumps(
        {"captions": captions} if len(captions) > 1 else {"caption": captions[0], "url": "x"}
    ).encode()


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_shards_are_prepared_to_the_bytes_of_karpathys_layout(tmp_path, ending):
    raw = tmp_path / "shards"
    raw.mkdir()
    for split in SPLITS:
        for number, sample in enumerate(of_split(split)):
            text = (
                "\r\n".join(sample.captions).encode() + b"\n\n"
                if ending == "txt"
                else _as_json(list(sample.captions))
            )
            key = sample.name.partition(".")[0]
            _shard(
                raw / f"{split}-{number:03d}.tar",
                {f"./{key}.{ending}": text, sample.name: sample.data},
            )
    (tmp_path / "karpathy").mkdir()
    assert prepared(webdataset, _config(raw), tmp_path / "out") == through_karpathy(
        tmp_path / "karpathy"
    )


def test_txt_counts_before_the_metadata_of_img2dataset_and_other_members_are_left_out(tmp_path):
    members = {
        "00/7.cls": b"3",
        "00/7.json": b'{"caption": "of the json"}',
        "00/7.txt": b"of the txt",
        "00/7.jpg": picture(0),
        "00/7.seg.png": b"",
        "._00": b"",
        "8.cls": b"",
    }
    config = _dataset(tmp_path, members)
    with pytest.raises(
        ValueError, match=r"1 of 4 cannot .*\n.* 1 x member that no rule reads: .*8"
    ):
        read(webdataset, config)
    first = read(webdataset, config, max_left_out=0.25)[0]
    assert (first.name, first.split, first.captions) == ("train/00/7.jpg", "train", ("of the txt",))


def test_shards_come_in_the_order_of_patterns_then_names_and_keys_in_that_of_the_shard(tmp_path):
    _dataset(tmp_path, {"z.jpg": picture(0), "b.txt": b"b", "z.txt": b"z", "b.jpg": picture(1)})
    _shard(tmp_path / "train-1.tar", {"m.jpg": picture(2), "m.txt": b"m"})
    _shard(tmp_path / "last.tar", {"y.jpg": picture(3), "y.txt": b"y"})
    names = [
        example.name
        for example in read(webdataset, _config(tmp_path, train=["last.tar", "train-*.tar"]))
    ]
    assert names == [
        "train/y.jpg",
        "train/z.jpg",
        "train/b.jpg",
        "train/m.jpg",
        "val/a.jpg",
        "test/a.jpg",
    ]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"a.txt": b"a"},
            r"key 'a': the picture is missing; received \.txt, allowed is one member that ends "
            r"in \.jpg",
        ),
        ({"a.jpg": b""}, r"key 'a': the image has no captions, received neither \.txt nor \.json"),
        ({"a.jpg": b"", "a.txt": b" \n\n"}, r"key 'a'\.txt: the image has no captions"),
        (
            {"a.jpg": b"", "a.json": b'{"captions": []}'},
            r"key 'a'\.json\.captions: the image has no captions",
        ),
        (
            {"a.jpg": b"", "a.json": b'{"captions": ["x", " "]}'},
            r"key 'a'\.json\.captions\[1\]: received caption ' '",
        ),
        (
            {"a.jpg": b"", "a.json": b'{"captions": "x"}'},
            r"key 'a'\.json\.captions: received str 'x', allowed is a list",
        ),
        (
            {"a.jpg": b"", "a.json": b'{"caption": ""}'},
            r"key 'a'\.json\.caption: received caption ''",
        ),
        ({"a.jpg": b"", "a.json": b'{"caption": 3}'}, r"key 'a'\.json\.caption: received int 3"),
        (
            {"a.jpg": b"", "a.json": b'{"text": "x"}'},
            r"key 'a'\.json: the member 'caption' is missing; received the members \['text'\]",
        ),
        ({"a.jpg": b"", "a.json": b"[1]"}, r"key 'a'\.json: received list"),
        (
            {"a.jpg": b"", "a.json": b'{"caption": }'},
            r"key 'a'\.json: line 1 column 13: malformed JSON",
        ),
        ({"a.jpg": b"", "a.txt": b"\xff"}, r"key 'a'\.txt: byte 0 is not UTF-8"),
        (
            {**GOOD, "a.png": b""},
            r"key 'a': several pictures have this key; received a\.jpg and a\.png",
        ),
        (
            [*GOOD.items(), ("./a.jpg", b"")],
            r"key 'a': several pictures have this key; received a\.jpg and a\.jpg",
        ),
        ([*GOOD.items(), ("a.txt", b"b")], r"key 'a': \.txt is there twice"),
        (
            {"../a.jpg": b"", "../a.txt": b"a"},
            r"member '\.\./a\.jpg': received image name '\.\./a\.jpg', allowed is a relative path",
        ),
        ({"a.jpg": None}, r"member 'a\.jpg': is a link or a sparse file, allowed are plain files"),
    ],
)
def test_a_bad_member_is_named_by_shard_key_and_field(tmp_path, members, message):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=rf"train-0\.tar: {message}"):
        prepared(webdataset, _dataset(tmp_path, members), out)
    assert list(out.iterdir()) == []


def test_a_key_of_two_shards_of_a_split_is_refused_whatever_its_ending(tmp_path):
    config = _dataset(tmp_path)
    _shard(tmp_path / "train-1.tar", {"a.png": picture(1), "a.txt": b"a"})
    with pytest.raises(
        ValueError,
        match=r"train-1\.tar: key 'a': the key is in train a second time, first at "
        r".*train-0\.tar: key 'a'",
    ):
        read(webdataset, config)


@pytest.mark.parametrize("data", [b"GIF", picture(0)[:-200], b""])
def test_a_damaged_picture_is_named_by_shard_and_member_and_leaves_nothing(tmp_path, data):
    out = tmp_path / "out"
    with pytest.raises(
        ValueError,
        match=r"train-0\.tar member a\.jpg \(.*train-0\.tar: key 'a'\): (not an image|the image "
        r"cannot be decoded)",
    ):
        prepared(webdataset, _dataset(tmp_path, {"a.jpg": data, "a.txt": b"a"}), out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("damage", ["compressed", "truncated", "not a tar"])
def test_an_unusable_shard_is_named(tmp_path, damage):
    config, shard = _dataset(tmp_path), tmp_path / "train-0.tar"
    if damage == "compressed":
        _shard(shard, GOOD, "w:gz")
    else:
        shard.write_bytes(shard.read_bytes()[: 512 + 300] if damage == "truncated" else b"x" * 2000)
    with pytest.raises(ValueError, match=r"train-0\.tar: not a whole, uncompressed tar"):
        read(webdataset, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train": ["none-*.tar"]},
            r"`train` of the dataset has 'none-\*\.tar', which matches no file in .*; the folder "
            r"holds test-0\.tar",
        ),
        ({"val": []}, r"`val` of the dataset is empty"),
        (
            {"test": ["../x.tar"]},
            r"`test` of the dataset has '\.\./x\.tar', allowed are names and globs inside",
        ),
        ({"test": ["/x.tar"]}, r"`test` of the dataset has '/x\.tar', allowed"),
        (
            {"test": ["*.tar"]},
            r"train-0\.tar is named by `train` and by `test` of the dataset, allowed is one "
            r"split for a file",
        ),
        ({"root": "nowhere"}, r"there is no dataset folder 'nowhere'"),
    ],
)
def test_bad_options_say_what_to_change(tmp_path, options, message):
    _dataset(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(webdataset, _config(**{"root": tmp_path, **options}))


def test_digest_follows_shards_and_their_splits_but_not_the_place(tmp_path):
    one, two = _dataset(tmp_path / "one"), _dataset(tmp_path / "two")
    digest = webdataset.raw_digest(one)
    assert digest == webdataset.raw_digest(two)
    assert (
        webdataset.raw_digest(_config(tmp_path / "one", val=["test-0.tar"], test=["val-0.tar"]))
        != digest
    )
    _shard(tmp_path / "two" / "train-0.tar", {**GOOD, "a.txt": b"b"})
    assert webdataset.raw_digest(two) != digest


def test_names_that_begin_at_the_root_are_read_below_it(tmp_path):
    members = {"/data/x/1.jpg": picture(1), "/data/x/1.txt": b"one"}
    assert read(webdataset, _dataset(tmp_path, members))[0].name == "train/data/x/1.jpg"


def test_members_under_a_name_with_more_dots_are_refused_even_beside_an_example(tmp_path):
    members = {**GOOD, "a.v2.jpg": picture(1), "a.v2.txt": b"lost", "a.depth.png": b"x"}
    with pytest.raises(
        ValueError,
        match=r"2 x member that no rule reads: .*'a'\.v2\.jpg: received the ending \.v2\.jpg, read "
        r"are \.jpg(.|\n)*besides, 1 x member beside an example .*'a'\.depth\.png",
    ):
        read(webdataset, _dataset(tmp_path, members))


def test_files_of_operating_systems_are_counted_and_stop_nothing(tmp_path):
    members = {
        **GOOD,
        "._a.jpg": b"x",
        "__MACOSX/._a.jpg": b"x",
        "Thumbs.db": b"x",
        ".DS_Store": b"",
    }
    assert len(read(webdataset, _dataset(tmp_path, members))) == 3


def test_a_shard_without_examples_is_counted(tmp_path):
    config, left_out = _dataset(tmp_path), LeftOut(0.0, str(tmp_path))
    _shard(tmp_path / "train-1.tar", {})
    assert len(list(webdataset.examples(config, left_out))) == 3
    assert left_out.facts() == {EMPTY_FILE: {"count": 1, "first": ["train-1.tar"]}}


def test_line_breaks_make_captions_unless_the_metadata_have_them_as_one(tmp_path):
    text = "A dog\n\nruns over\r\nthe grass\n"
    both = {"a.jpg": picture(0), "a.txt": text.encode()}
    config = _dataset(tmp_path, both)
    assert read(webdataset, config)[0].captions == ("A dog", "runs over", "the grass")
    both["a.json"] = json.dumps({"caption": text, "status": "success"}).encode()
    assert read(webdataset, _dataset(tmp_path, both))[0].captions == (text,)
    both["a.json"] = json.dumps({"caption": "of the json"}).encode()
    assert len(read(webdataset, _dataset(tmp_path, both))[0].captions) == 3


def test_zero_bytes_in_a_caption_are_damage(tmp_path):
    members = {"a.jpg": picture(0), "a.txt": b"A dog ru\0\0\0\0"}
    with pytest.raises(ValueError, match=r"key 'a'\.txt\[0\]: zero bytes are among the text"):
        read(webdataset, _dataset(tmp_path, members))
