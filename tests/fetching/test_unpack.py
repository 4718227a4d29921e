"""Archives: what is kept, and every way in which one may leave its folder or never end."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile

import pytest

from tasks.core.data.tars import read_tar
from tasks.fetching.sources import File
from tasks.fetching.unpack import unpack

PICTURE = b"\xff\xd8" + bytes(range(256)) * 9
MEMBERS = {"d.json": b"{}", "sub/a.jpg": PICTURE, "sub/b.jpg": PICTURE[::-1], "empty.txt": b""}


def _zip(members, kind=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar(members, change=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if change is not None:
                change(info)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _unpack(folder, data, name, **how):
    (folder / name).write_bytes(data)
    whole = folder / "whole"
    whole.mkdir()
    left_out = unpack(
        folder / name, File(f"https://x.org/{name}", **how), whole, lambda done, total: None
    )
    found = {
        path.relative_to(whole).as_posix(): path.read_bytes()
        for path in whole.rglob("*")
        if path.is_file()
    }
    return found, left_out


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", _zip(MEMBERS)),
        ("a.zip", _zip(MEMBERS, zipfile.ZIP_STORED)),
        ("a.tar.gz", gzip.compress(_tar(MEMBERS))),
        ("a.tgz", gzip.compress(_tar({f"./{name}": data for name, data in MEMBERS.items()}))),
        ("a.tar.xz", lzma.compress(_tar(MEMBERS))),
        ("a.TAR.BZ2", bz2.compress(_tar(MEMBERS))),
    ],
)
def test_the_members_are_files(name, data, tmp_path):
    assert _unpack(tmp_path, data, name) == (MEMBERS, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "whole"])


@pytest.mark.parametrize("name", ["d.json.gz", "captions.csv", "shard.tar"])
def test_what_is_no_archive_to_unpack_stays_as_it_is(name, tmp_path):
    data = {"d.json.gz": gzip.compress(b"{}"), "captions.csv": b"a,b\n", "shard.tar": _tar(MEMBERS)}
    assert _unpack(tmp_path, data[name], name) == ({name: data[name]}, {})


def test_pictures_go_into_a_tar_that_readers_read(tmp_path):
    noise = {"__MACOSX/sub/._a.jpg": b"x", "other.json": b"x", "x" * 200 + ".jpg": PICTURE}
    data = _zip({**MEMBERS, **noise})
    found, left_out = _unpack(tmp_path, data, "a.zip", kept=("*.jpg",), tar="train/pictures.tar")
    assert list(found) == ["train/pictures.tar"]
    tar = read_tar(tmp_path / "whole/train/pictures.tar")
    assert not tar.doubt
    packed = found["train/pictures.tar"]
    stored = {one.name: packed[one.offset : one.offset + one.num_bytes] for one in tar.members}
    names = ("sub/a.jpg", "sub/b.jpg", "x" * 200 + ".jpg")
    assert stored == {name: {**MEMBERS, **noise}[name] for name in names}
    assert left_out == {
        "file of an operating system": 1,
        "member of another dataset, or no picture": 3,
    }


def _zip_with(name, mode=0, flags=0, data=b"x"):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, data)
    packed = bytearray(buffer.getvalue())
    # Bits of an entry that is encrypted, in both of its heads
    packed[6] |= flags
    packed[packed.index(b"PK\1\2") + 8] |= flags
    return bytes(packed)


def _twice(name):
    buffer = io.BytesIO()
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(2):
            archive.writestr(name, b"x")
    return buffer.getvalue()


def _says_more(data):
    """A zip in which a member says another size than it has, in both heads."""
    packed = bytearray(data)
    place = packed.index(b"PK\1\2")
    struct.pack_into("<I", packed, 22, 5000)
    struct.pack_into("<I", packed, place + 24, 5000)
    return bytes(packed)


def _as_link(info):
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


def _as_device(info):
    info.type, info.size = tarfile.CHRTYPE, 0


def _flipped(data):
    place = data.index(PICTURE[:50])
    return data[: place + 20] + b"!" + data[place + 21 :]


def _tar_twice(name):
    return _tar({name: b"x"})[:1024] + _tar({name: b"y"})


STORED = _zip({"a.jpg": PICTURE}, zipfile.ZIP_STORED)
BOMB = bytes(1 << 20)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.zip", _zip_with("../out.jpg"), r"received image name '\.\./out\.jpg'"),
        ("a.zip", _zip_with("/etc/passwd"), "received image name '/etc/passwd'"),
        ("a.zip", _zip_with("..\\out.jpg"), r"received image name '\.\."),
        ("a.zip", _zip_with("C:\\out.jpg"), "received image name"),
        ("a.zip", _zip_with("l.jpg", stat.S_IFLNK | 0o777), "'l.jpg' is a link or a device"),
        ("a.zip", _zip_with("p.jpg", stat.S_IFIFO), "'p.jpg' is a link or a device"),
        ("a.zip", _zip_with("a.jpg", flags=1), "'a.jpg' is encrypted"),
        ("a.zip", _twice("a.jpg"), "'a.jpg' is there twice"),
        ("a.zip", _zip({"a": b"x", "a/b.jpg": b"x"}), "'a/b.jpg' is a file and a folder at once"),
        ("a.zip", _zip({"big": BOMB * 70}), "unpacks to 73,400,320 bytes or more"),
        ("a.zip", _says_more(_zip({"a.jpg": b"x" * 9})), "the archive is damaged"),
        ("a.zip", _flipped(STORED), "the archive is damaged"),
        ("a.zip", STORED[:-30], "the archive is damaged"),
        ("a.zip", _zip({}), "a.zip: holds nothing that matches"),
        ("a.zip", b"PK\3\4" + bytes(99), "the archive is damaged"),
        ("a.zip", b"<!DOCTYPE html><html>log in", "a.zip: is a web page"),
        ("a.tgz", gzip.compress(_tar({"../out": b"x"})), r"received image name '\.\./out'"),
        ("a.tgz", gzip.compress(_tar({"l": b""}, _as_link)), "'l' is a link or a device"),
        ("a.tgz", gzip.compress(_tar({"c": b""}, _as_device)), "'c' is a link or a device"),
        ("a.tgz", gzip.compress(BOMB) * 70, "unpacks to .* bytes or more"),
        ("a.tgz", gzip.compress(_tar(MEMBERS))[:-40], "the archive is damaged"),
        ("a.tgz", gzip.compress(_tar(MEMBERS)[:700]), "not a whole, uncompressed tar"),
        ("a.tar.bz2", bz2.compress(b"x")[:9] + b"xxxxxxx", "the archive is damaged"),
        ("a.tar.xz", lzma.compress(_tar(MEMBERS))[:-30], "the archive is damaged"),
        ("a.tar", _tar({"l.jpg": b""}, _as_link), "'l.jpg' is a link or a device"),
        ("a.tar", _tar({"c.jpg": b""}, _as_device), "'c.jpg' is a link or a device"),
        ("a.bin", _tar({"l.jpg": b""}, _as_link), "'l.jpg' is a link or a device"),
        ("a.tar", _tar({"../out": b"x"}), r"received image name '\.\./out'"),
        ("a.tar", _tar_twice("a.jpg"), "'a.jpg' is there twice"),
        ("a.tar", _tar({}), "a.tar: holds nothing that matches"),
        ("a.tar", _tar(MEMBERS)[:700], "not a whole, uncompressed tar"),
        ("a.tar", gzip.compress(_tar(MEMBERS)), "not a whole, uncompressed tar"),
        ("a.zip", _zip({"d/" + "a" * 256: b"x"}), "member 'd/a+ has a name that is too long"),
        ("a.zip", _zip({"a" * 300 + "/b": b"x"}), "has a name that is too long"),
    ],
)
def test_what_may_not_be_unpacked_is_one_message(name, data, message, tmp_path):
    before = sorted(path.name for path in tmp_path.parent.iterdir())
    with pytest.raises(ValueError, match=message):
        _unpack(tmp_path, data, name)
    assert sorted(path.name for path in tmp_path.parent.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "whole"])


def test_an_archive_of_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.fetching.unpack.MAX_MEMBERS", 3)
    with pytest.raises(ValueError, match="has 4 members, allowed are 3"):
        _unpack(tmp_path, _zip(MEMBERS), "a.zip")


def test_a_file_that_should_be_an_archive_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is of no known kind, allowed is an archive"):
        _unpack(tmp_path, b"neither", "a.zip", tar="pictures.tar")
