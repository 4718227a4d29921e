"""Pictures where they lie: names however they are written, and files that are none."""

import io
import json
import os
import socket
import tarfile
import unicodedata
import zipfile

import pytest

from tasks.core.data.datasets import karpathy
from tasks.core.data.image_files import unfolded
from tasks.core.data.left_out import LeftOut
from tests.core.data.caption_samples import picture, read

SPLITS = ("train", "val", "test")


def _dataset(root, names, images=("images",)):
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": "a dog"}]}
        for name, split in zip(names, SPLITS, strict=True)
    ]
    (root / "d.json").write_text(json.dumps({"images": entries}))
    return karpathy.Config(
        path=str(root), annotations="d.json", images=list(images), restval_is_train=False
    )


def _folder(root, names, sub="images"):
    for number, name in enumerate(names):
        path = root / sub / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))


def _height(example):
    return example.load().size[1] - 11


@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_names_are_compared_in_one_form_of_unicode(tmp_path, written):
    other = {"NFC": "NFD", "NFD": "NFC"}[written]
    names = [f"caf\u00e9 {number}.jpg" for number in range(3)]
    _folder(tmp_path, [unicodedata.normalize(written, name) for name in names])
    config = _dataset(tmp_path, [unicodedata.normalize(other, name) for name in names])
    assert [_height(example) for example in read(karpathy, config)] == [0, 1, 2]


def test_names_of_windows_are_found_and_a_file_with_that_very_name_comes_first(tmp_path):
    _folder(tmp_path, ["a/1.jpg", "b\\2.jpg", "b/2.jpg", "3.jpg"])
    config = _dataset(tmp_path, ["a\\1.jpg", "images/b\\2.jpg", ".\\3.jpg"])
    assert [_height(example) for example in read(karpathy, config)] == [0, 1, 3]


@pytest.mark.parametrize("near", ["0000.JPG", "0000.png", "0000", "0000.jpg ", "0000.jpeg"])
def test_a_missing_name_shows_the_nearest_one(tmp_path, near):
    _folder(tmp_path, ["1.jpg", "2.jpg", "9.jpg", near])
    config = _dataset(tmp_path, ["0000.jpg", "1.jpg", "2.jpg"])
    with pytest.raises(
        ValueError, match=rf"image '0000\.jpg' is missing .*the nearest name there is '{near}'"
    ):
        read(karpathy, config)


def test_pipes_sockets_devices_and_broken_links_hang_nothing_and_are_counted(tmp_path):
    _folder(tmp_path, ["0.jpg", "1.jpg", "2.jpg"])
    images = tmp_path / "images"
    os.mkfifo(images / "pipe.jpg")
    (images / "zero.jpg").symlink_to("/dev/zero")
    (images / "gone.jpg").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(images / "socket.jpg"))
    config, left_out = _dataset(tmp_path, ["0.jpg", "1.jpg", "2.jpg"]), LeftOut(0.0)
    assert len(list(karpathy.examples(config, left_out))) == 3
    assert len(karpathy.raw_digest(config)) == 64
    [counted] = left_out.facts().values()
    assert counted["count"] == 4
    named = _dataset(tmp_path, ["pipe.jpg", "1.jpg", "zero.jpg"])
    with pytest.raises(
        ValueError, match=r"2 x missing picture: .*'pipe\.jpg'(.|\n)*4 x named pipe"
    ):
        read(karpathy, named)
    with pytest.raises(ValueError, match=r"pipe\.jpg: no folder, tar or picture; it is no regular"):
        read(karpathy, _dataset(tmp_path, ["0.jpg", "1.jpg", "2.jpg"], ["images/pipe.jpg"]))


def test_linked_folders_are_read_and_a_link_upwards_ends(tmp_path):
    _folder(tmp_path, ["0.jpg"])
    _folder(tmp_path, ["1.jpg", "2.jpg"], sub="elsewhere")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "up").symlink_to(tmp_path / "images")
    config = _dataset(tmp_path, ["0.jpg", "1.jpg", "2.jpg"])
    assert [_height(example) for example in read(karpathy, config)] == [0, 0, 1]


@pytest.mark.parametrize("step", [1, -1])
def test_files_have_one_order_and_their_own_paths_before_linked_ones(tmp_path, step):
    """In whatever order the files were written, which some file systems keep."""
    names = [f"{folder}/{number}.jpg" for folder in "aceg" for number in range(8)]
    _folder(tmp_path, names[::step])
    _folder(tmp_path, ["4.jpg"], sub="elsewhere")
    images = tmp_path / "images"
    links = {"a/link": images / "c", "b": images / "g", "d": tmp_path / "elsewhere"}
    for name, target in list(links.items())[::step]:
        (images / name).symlink_to(target)
    found = [path.relative_to(images).as_posix() for path in unfolded(images)]
    assert found == [*names, "d/4.jpg"]


def test_a_picture_in_two_splits_by_a_link_is_refused(tmp_path):
    _folder(tmp_path, ["0.jpg", "1.jpg"])
    (tmp_path / "images" / "copy.jpg").symlink_to("0.jpg")
    config = _dataset(tmp_path, ["0.jpg", "1.jpg", "copy.jpg"])
    with pytest.raises(
        ValueError, match=r"1 x picture in several splits: .*received images/copy\.jpg in test"
    ):
        read(karpathy, config)
    entries = json.loads((tmp_path / "d.json").read_text())
    entries["images"][2]["split"] = "train"
    (tmp_path / "d.json").write_text(json.dumps(entries))
    assert [_height(example) for example in read(karpathy, config)] == [0, 1, 0]


def test_a_hard_link_in_a_tar_is_the_picture_it_names(tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for number in range(2):
            info, data = tarfile.TarInfo(f"{number}.jpg"), picture(number)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("2.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "1.jpg"
        archive.addfile(link)
    config = _dataset(tmp_path, ["0.jpg", "2.jpg", "1.jpg"], ["images.tar"])
    assert [_height(example) for example in read(karpathy, config)] == [0, 1, 1]


def test_an_archive_in_place_of_pictures_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("0.jpg", picture(0))
    config = _dataset(tmp_path, ["0.jpg", "1.jpg", "2.jpg"], ["images.zip"])
    with pytest.raises(ValueError, match=r"images\.zip: no folder, .*it is a zip archive"):
        read(karpathy, config)


def test_a_huge_sparse_picture_is_refused_unread(tmp_path):
    _folder(tmp_path, ["0.jpg", "1.jpg", "2.jpg"])
    with (tmp_path / "images" / "0.jpg").open("r+b") as handle:
        handle.truncate(1 << 40)
    config = _dataset(tmp_path, ["0.jpg", "1.jpg", "2.jpg"])
    with pytest.raises(ValueError, match=r"0\.jpg .*the file has 1,099,511,627,776 bytes, allowed"):
        read(karpathy, config)[0].load()


def test_files_that_no_annotation_names_are_counted_and_stop_nothing(tmp_path):
    _folder(tmp_path, ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "notes.txt"])
    left_out = LeftOut(0.0)
    config = _dataset(tmp_path, ["0.jpg", "1.jpg", "2.jpg"])
    left_out.check(len(list(karpathy.examples(config, left_out))))
    [(reason, counted)] = left_out.facts().items()
    assert (reason, counted["count"]) == ("picture file of no entry that is used", 2)
