"""Tars that are damaged, too large, foreign or odd: the shard of train beside good ones."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.faults.hostile import Case, check
from tests.faults.hostile_datasets import GOOD, TEXT, good, karpathy, pairs, shards, tar

WHOLE = tar(pairs(4))
FOUR = {"names": [f"train/{number:03d}.png" for number in range(4)]}
TWO = {"names": ["train/000.png", "train/001.png"]}
BLOCK = 512


def _offsets(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [info.offset for info in archive]


def _member(name, kind=tarfile.REGTYPE, size=0, link="", data=b"", **more):
    """One member as tarfile writes it, whatever it claims."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size or len(data), link
    for field, value in more.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


def _then(*members):
    """The members, then good pairs and the end."""
    return b"".join(members) + WHOLE


def _with_field(field, place=124):
    """The first header with other bytes in a field, and the checksum that fits."""
    header = bytearray(WHOLE[:BLOCK])
    header[place : place + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + WHOLE[BLOCK:]


def _pax(records, kind=tarfile.XHDTYPE):
    return _member("pax", kind, data=records)


def _record(key, value):
    """A pax record, which begins with its own length."""
    body = f" {key}={value}\n".encode()
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def _records(size):
    """A tar as `tar -b` writes it, with records of `size` bytes."""
    ends = _offsets(WHOLE)[-1] + 2 * BLOCK
    return WHOLE[:ends] + bytes(-(-(ends + 2 * BLOCK) // size) * size - ends)


def _flipped(place):
    changed = bytearray(WHOLE)
    changed[place] ^= 1
    return bytes(changed)


def _key(**members):
    """Good pairs and a key of the members: {ending: bytes}."""
    return tar([*pairs(2), *((f"odd.{ending}", data) for ending, data in members.items())])


# Where the members begin
AT = _offsets(WHOLE)
TAR = "train.tar"
REFUSED = [
    ("cut inside a picture", WHOLE[: AT[4] + 600], (TAR, "inside a block")),
    ("cut inside a header", WHOLE[: AT[4] + 100], (TAR, f"byte {AT[4]}")),
    ("cut behind a picture", WHOLE[: AT[5]], (TAR, "last key")),
    ("cut to nothing", b"", ("split 'train' has no images",)),
    ("zeroed from a header on", WHOLE[: AT[1]] + bytes(30 * BLOCK + 10240), (TAR, "zero")),
    ("zeroed inside a picture", WHOLE[: AT[4] + 540] + bytes(len(WHOLE) - AT[4] - 540), (TAR,)),
    (
        "zeroed in the middle",
        WHOLE[: AT[2]] + bytes(AT[4] - AT[2]) + WHOLE[AT[4] :],
        (TAR, "data follow the zeros"),
    ),
    ("all zeros", bytes(102_400), (TAR, "zero bytes alone")),
    ("flipped byte of a name", _flipped(AT[2]), (TAR, f"byte {AT[2]}")),
    ("flipped byte of a checksum", _flipped(AT[2] + 148), (TAR, f"byte {AT[2]}")),
    ("flipped byte of a size", _flipped(AT[2] + 130), (TAR, f"byte {AT[2]}")),
    ("data behind the end", WHOLE + b"x" * BLOCK, (TAR, "data follow")),
    ("half a block behind the end", WHOLE + bytes(100), (TAR, "inside a block")),
    ("two tars in one file", WHOLE + WHOLE, (TAR, "data follow")),
    ("a megabyte of zeros behind the end", WHOLE + bytes(100 * 10240), (TAR, "zero bytes follow")),
    ("negative size", _with_field(b"\xff" * 12), (TAR, "-1 bytes")),
    ("size of 8 GB", _with_field(b"77777777777\0"), (TAR, "8589934591 bytes")),
    ("size of 2^87", _with_field(b"\x80" + b"\x7f" * 11), (TAR, "000.png")),
    ("size that is no number", _with_field(b"hello world\0"), (TAR, "byte 0")),
    ("negative size in pax", _then(_pax(_record("size", "-5")), _member("a")), (TAR, "-5 bytes")),
    ("size of words in pax", _then(_pax(_record("size", "abc")), _member("a")), (TAR,)),
    ("pax record longer than its header", _then(_pax(b"99999 path=x\n")), (TAR,)),
    (
        "pax header of 2 MB",
        _then(_pax(_record("comment", "x" * (2 << 20))), _member("a")),
        (TAR, "a header has"),
    ),
    ("40 pax headers in a row", _then(*[_pax(_record("comment", "x"))] * 40), (TAR, "in a row")),
    ("40 global headers in a row", _then(*[_pax(b"", tarfile.XGLTYPE)] * 40), (TAR, "in a row")),
    (
        "header of a long name at the end",
        WHOLE[: AT[-1] + 1024]
        + _member("n", tarfile.GNUTYPE_LONGNAME, data=b"x" * 300)
        + bytes(10240),
        (TAR,),
    ),
    ("sparse member", _then(_member("s", tarfile.GNUTYPE_SPARSE)), (TAR, "sparse")),
    ("gzip", gzip.compress(WHOLE), (TAR, "gzip data")),
    ("zip", b"PK\3\4" + bytes(1020), (TAR, "zip archive")),
    ("xz", b"\xfd7zXZ\0" + bytes(1018), (TAR, "xz data")),
    ("web page", b"<html>" + b" " * 1018, (TAR, "a web page")),
    ("pointer of git-LFS", b"version https://git-lfs.github.com/spec/v1\n", (TAR, "git lfs pull")),
    ("parquet", b"PAR1" + bytes(1020), (TAR, "Parquet")),
    ("name with ..", _then(_member("../../etc/passwd.jpg", data=good())), (TAR, "..")),
    ("name of dots alone", _then(_member("a/../x.png", data=good())), (TAR, "..")),
    ("name with a lone surrogate", _then(_member("\udcff.png", data=good())), (TAR, "\\udcff")),
    (
        "picture that is a link",
        _key(txt=b"a")[:-10240]
        + _member("odd.png", tarfile.SYMTYPE, link="/etc/passwd")
        + bytes(1024),
        (TAR, "link"),
    ),
    (
        "hard link to nothing",
        _then(_member("x.txt", data=b"a"), _member("x.png", tarfile.LNKTYPE, link="gone.png")),
        (TAR, "x.png"),
    ),
    (
        "hard link to itself",
        _then(_member("x.txt", data=b"a"), _member("x.png", tarfile.LNKTYPE, link="x.png")),
        (TAR, "x.png"),
    ),
    ("fifo for a picture", _then(_member("x.png", tarfile.FIFOTYPE)), (TAR, "x.png")),
    ("device for a picture", _then(_member("x.png", tarfile.CHRTYPE)), (TAR, "x.png")),
    ("key without captions", _key(png=good()), ("'odd'", "no captions")),
    ("key without a picture", _key(txt=b"a dog"), ("'odd'", "picture is missing")),
    ("two pictures of one key", _key(png=good(), jpg=good()), ("'odd'", "several pictures")),
    ("same member twice", tar([*pairs(2), *pairs(1)]), ("000",)),
    (
        "same captions twice",
        tar([*pairs(2), ("x.png", good()), ("x.txt", b"a"), ("x.txt", b"b")]),
        ("'x'", "twice"),
    ),
    ("empty picture", _key(png=b"", txt=b"a"), ("odd.png", "an empty file")),
    ("empty captions", _key(png=good(), txt=b""), ("'odd'", "no captions")),
    ("captions of zeros", _key(png=good(), txt=bytes(40)), ("odd", "caption")),
    ("captions with a zero", _key(png=good(), txt=b"a\0b"), ("odd", "zero bytes")),
    ("captions in latin-1", _key(png=good(), txt="caf\xe9".encode("latin-1")), ("UTF-8",)),
    ("captions of 20 MB", _key(png=good(), txt=b"a " * (10 << 20)), ("'odd'", "too large")),
    ("json cut", _key(png=good(), json=b'{"caption": "a'), ("'odd'", "malformed JSON")),
    ("json of a list", _key(png=good(), json=b'["a dog"]'), ("'odd'", "an object")),
    ("json of nested lists", _key(png=good(), json=b"[" * 100_000), ("'odd'", "nested too deeply")),
    ("json caption null", _key(png=good(), json=b'{"caption": null}'), ("'odd'", "NoneType")),
    ("json caption a number", _key(png=good(), json=b'{"caption": 7}'), ("'odd'", "int 7")),
    ("json captions an object", _key(png=good(), json=b'{"captions": {"a": 1}}'), ("'odd'",)),
    ("unknown ending of a picture", _key(**{"input.jpg": good(), "txt": b"a"}), ("input.jpg",)),
]
ACCEPTED = [
    ("whole", WHOLE, FOUR),
    ("records of 64 kB", _records(65_536), FOUR),
    ("records of 1 MB", _records(1 << 20), FOUR),
    ("records of 512 bytes", _records(512), FOUR),
    ("no end, all keys whole", WHOLE[: AT[-1] + 1024],
     {**FOUR, "left_out": {"tar without the two zero blocks that end it": 1}}),
    ("cut between two keys", WHOLE[: AT[4]],
     {**TWO, "left_out": {"tar without the two zero blocks that end it": 1}}),
    ("pax", tar(pairs(4), format=tarfile.PAX_FORMAT), FOUR),
    ("ustar", tar(pairs(4), format=tarfile.USTAR_FORMAT), FOUR),
    ("absolute names", tar([(f"/{name}", data) for name, data in pairs(4)]), FOUR),
    ("names that begin with ./", tar([(f"./{name}", data) for name, data in pairs(4)]), FOUR),
    ("upper endings", tar([(name.upper(), data) for name, data in pairs(4)]), {"num_train": 4}),
    ("names of 250 letters", tar([("x" * 250 + name, data) for name, data in pairs(4)]),
     {"num_train": 4}),
    ("global header of 3 MB", _then(_pax(_record("comment", "x" * (3 << 20)), tarfile.XGLTYPE)),
     FOUR),
    ("resource forks of macOS", tar([("._000.png", b"x"), ("__MACOSX/a.png", b"x"), *pairs(4)]),
     FOUR),
    ("folders between members", _then(_member("deep/", tarfile.DIRTYPE)), FOUR),
    ("hard link to a picture", _then(_member("x.png", data=good()), _member("x.txt", data=b"a"),
     _member("y.png", tarfile.LNKTYPE, link="x.png"), _member("y.txt", data=b"b")),
     {"num_train": 6}),
    ("captions with a mark and CRLF", _key(png=good(), txt=b"\xef\xbb\xbfa cat\r\n\r\nb\r\n"),
     {"captions": [TEXT, TEXT, "a cat", "b"]}),
    ("caption of 10 MB", _key(png=good(), txt=b"a " * (5 << 20)), {"num_captions": 3}),
    ("json with NaN beside its caption", _key(png=good(), json=b'{"a": NaN, "caption": "b"}'),
     {"captions": [TEXT, TEXT, "b"]}),
]  # fmt: skip


def _of(name, data, refused=(), accepted=None):
    return Case(name, lambda raw: shards(raw, data), refused, accepted or {})


def _named(name, write, refused=(), accepted=None):
    """A case of pictures in a tar that Karpathy's json names; `write(path)` makes the tar."""

    def make(raw):
        settings = karpathy(raw, {"odd.png": ["a cat"]}, ("images", "odd.tar"))
        write(raw / "odd.tar")
        return settings

    return Case(name, make, refused, accepted or {})


def _holes(path, num_bytes=100 << 30):
    with path.open("wb") as handle:
        handle.write(WHOLE)
        handle.truncate(num_bytes)


def _many(count, kind):
    """A shard of as many members without content, then good pairs."""

    def make(raw):
        settings = shards(raw, WHOLE)
        info = tarfile.TarInfo("0.cls")
        info.type = kind
        block = info.tobuf(tarfile.USTAR_FORMAT) * 1000
        with (raw / TAR).open("wb") as handle:
            for _ in range(count // 1000):
                handle.write(block)
            handle.write(WHOLE)
        return settings

    return make


def _members(*members):
    return lambda path: path.write_bytes(tar(members))


def _train_of_holes(raw):
    settings = shards(raw, WHOLE)
    _holes(raw / "train.tar")
    return settings


CASES = [
    *(_of(name, data, words) for name, data, words in REFUSED),
    *(_of(name, data, accepted=accepted) for name, data, accepted in ACCEPTED),
    Case("a million members", _many(1_000_000, tarfile.REGTYPE), (TAR, "300,000 members")),
    Case("a million folders", _many(1_000_000, tarfile.DIRTYPE), (TAR, "300,000 members")),
    Case("100,000 folders", _many(100_000, tarfile.DIRTYPE), (), FOUR),
    Case("100 GB of holes", _train_of_holes, (TAR, "zero bytes follow")),
    _named("picture in a tar", _members(("odd.png", good())), (), {"colours": [GOOD] * 3}),
    _named("picture below a folder of a tar", _members(("a/b/odd.png", good())), (),
           {"num_train": 3}),
    _named("no such picture in a tar", _members(("other.png", good())), ("odd.png", "missing")),
    _named("picture twice in a tar", _members(("odd.png", good()), ("odd.png", good())),
           ("odd.png", "2 files")),
    _named("tar of 100 GB of holes", _holes, ("odd.tar", "zero bytes follow")),
    _named("tar that is a broken link", lambda path: path.symlink_to("gone"), ("odd.tar",)),
    _named("tar that is a device", lambda path: path.symlink_to("/dev/zero"), ("odd.tar",)),
    _named("tar that is json", lambda path: path.write_text(json.dumps({})), ("odd.tar",)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_shard(case, tmp_path):
    check(case, Path(tmp_path))
