"""Pictures that are no pictures, too large, damaged or odd: one beside good ones."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.hostile import Case, check
from tests.faults.hostile_datasets import GOOD, ODD, karpathy, picture

JPEG, PNG = picture("JPEG", quality=95), picture()


def _noise(kind, **how):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def _saved(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def _chunk(kind, data, crc=None):
    found = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


def _with_chunk(*chunks):
    """A good PNG with chunks behind its header."""
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def _png(width, height, data=b"", depth=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")
    return PNG[:8] + body


def _tiff(*entries):
    """A TIFF of one folder with entries (tag, type, count, value)."""
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + struct.pack("<I", 8)


def _profile(data):
    return b"icc\0\0" + zlib.compress(data)


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _halves():
    """Left half odd, right half good."""
    image = Image.new("RGB", (16, 16), tuple(ODD))
    image.paste(tuple(GOOD), (8, 0, 16, 16))
    return image


def _frames(kind, **how):
    frames = [Image.new("RGB", (16, 16), tuple(colour)) for colour in (ODD, GOOD, GOOD)]
    return _saved(frames[0], kind, save_all=True, append_images=frames[1:], **how)


def _alpha(mode, value):
    return _saved(Image.new(mode, (16, 16), value))


HALF = len(_noise("JPEG")) // 2
REFUSED = [
    # name, file, bytes, words
    ("jpeg cut in half", "odd.jpg", _noise("JPEG")[:HALF], ("cannot be decoded",)),
    ("jpeg of two bytes", "odd.jpg", JPEG[:2], ("not an image",)),
    ("jpeg of a header alone", "odd.jpg", JPEG[:200], ("odd.jpg",)),
    ("progressive jpeg cut", "odd.jpg", _noise("JPEG", progressive=True)[:HALF], ("odd.jpg",)),
    ("jpeg with a zeroed tail", "odd.jpg", _noise("JPEG")[:HALF] + bytes(HALF), ("end is zeros",)),
    ("png cut", "odd.png", _noise("PNG")[:5000], ("cannot be decoded",)),
    ("png with a zeroed tail", "odd.png", _noise("PNG")[:5000] + bytes(5000), ("odd.png",)),
    ("png with a flipped byte", "odd.png", PNG[:50] + b"\xff" + PNG[51:], ("odd.png",)),
    ("webp cut", "odd.webp", _noise("WEBP")[:1500], ("odd.webp",)),
    ("webp with a zeroed tail", "odd.webp", _noise("WEBP")[:1000] + bytes(4000), ("odd.webp",)),
    ("gif with a zeroed tail", "odd.gif", _noise("GIF")[:1500] + bytes(9000), ("odd.gif",)),
    ("gif cut", "odd.gif", _noise("GIF")[:1500], ("odd.gif",)),
    ("bmp cut", "odd.bmp", _noise("BMP")[:5000], ("odd.bmp",)),
    ("tiff cut", "odd.tif", _noise("TIFF")[:3000], ("odd.tif",)),
    ("ppm cut", "odd.ppm", _noise("PPM")[:3000], ("odd.ppm",)),
    ("zeros", "odd.jpg", bytes(1000), ("zero bytes alone",)),
    ("empty", "odd.jpg", b"", ("an empty file",)),
    ("text", "odd.jpg", b"hello, no picture", ("not an image",)),
    ("random bytes", "odd.jpg", np.random.default_rng(1).bytes(3000), ("not an image",)),
    ("png of 900 million pixels", "odd.png", _png(30000, 30000), ("pixels",)),
    ("png of 100 million pixels", "odd.png", _png(10000, 10000), ("odd.png",)),
    ("png of 2^31 columns", "odd.png", _png(2**31 - 1, 2**31 - 1), ("odd.png",)),
    ("png without columns", "odd.png", _png(0, 16), ("odd.png",)),
    ("png with too little data", "odd.png", _png(16, 16, b"\0" * 9), ("odd.png",)),
    ("gif of 4 billion pixels", "odd.gif", b"GIF89a" + b"\xff" * 4 + bytes(3), ("odd.gif",)),
    (
        "bmp of 2^62 pixels",
        "odd.bmp",
        picture("BMP")[:18] + b"\xff\xff\xff\x7f" * 2 + picture("BMP")[26:],
        ("odd.bmp",),
    ),
    ("ppm of 10^16 pixels", "odd.ppm", b"P6 99999999 99999999 255\n", ("odd.ppm",)),
    ("ppm with an endless number", "odd.ppm", b"P6 " + b"9" * 100_000, ("odd.ppm",)),
    (
        "jpeg of 65535 rows",
        "odd.jpg",
        JPEG.replace(b"\0\x10\0\x10\x03", b"\xff" * 4 + b"\x03"),
        ("pixels",),
    ),
    ("tiff that points at itself", "odd.tif", _tiff((256, 4, 1, 16), (330, 4, 1, 8)), ("odd.tif",)),
    (
        "tiff of 4 billion strips",
        "odd.tif",
        _tiff((256, 4, 1, 16), (257, 4, 1, 16), (273, 4, 2**32 - 1, 8)),
        ("odd.tif",),
    ),
    ("tiff of floats", "odd.tif", _saved(Image.new("F", (16, 16)), "TIFF"), ("range of values",)),
    ("avif", "odd.jpg", b"\0\0\0\x20ftypavif" + bytes(99), ("AVIF", "convert")),
    ("heic", "odd.jpg", b"\0\0\0\x20ftypheic" + bytes(99), ("HEIC",)),
    ("jpeg 2000", "odd.jpg", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), ("JPEG 2000",)),
    ("jpeg 2000 code stream", "odd.jpg", b"\xff\x4f\xff\x51" + bytes(99), ("JPEG 2000",)),
    ("jpeg xl", "odd.jpg", b"\xff\x0a" + bytes(99), ("JPEG XL",)),
    ("ico", "odd.png", b"\0\0\1\0\1\0" + bytes(99), ("ICO",)),
    ("psd", "odd.png", b"8BPS" + bytes(99), ("PSD",)),
    ("svg", "odd.png", b"<?xml version='1.0'?>\n<svg/>", ("SVG",)),
    ("svg with a bomb", "odd.svg", b"<svg><!DOCTYPE x [<!ENTITY a 'aa'>]></svg>", ("SVG",)),
    ("web page", "odd.jpg", b"<!DOCTYPE html><html>404</html>", ("a web page",)),
    (
        "pointer of git-LFS",
        "odd.jpg",
        b"version https://git-lfs.github.com/spec/v1\n",
        ("git lfs pull",),
    ),
    ("pdf", "odd.jpg", b"%PDF-1.7\n" + bytes(99), ("a PDF",)),
    ("postscript", "odd.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n", ("not an image",)),
    ("zip", "odd.jpg", b"PK\3\4" + bytes(99), ("zip archive",)),
    ("gzip", "odd.jpg", b"\x1f\x8b" + bytes(99), ("gzip data",)),
    ("numpy", "odd.jpg", b"\x93NUMPY" + bytes(99), ("NumPy",)),
]
NOISE = os.urandom(2 << 20)
PACKER = zlib.compressobj()
BOMB = b"icc\0\0" + b"".join(PACKER.compress(bytes(1 << 20)) for _ in range(200)) + PACKER.flush()
ACCEPTED = [
    # name, file, bytes, mean colour, or None where its mode changes it
    ("jpeg", "odd.jpg", JPEG, ODD),
    ("jpeg called png", "odd.png", JPEG, ODD),
    ("png called jpg", "odd.jpg", PNG, ODD),
    ("bmp called jpg", "odd.jpg", picture("BMP"), ODD),
    ("tiff called jpg", "odd.jpg", picture("TIFF"), ODD),
    ("ppm called jpg", "odd.jpg", picture("PPM"), ODD),
    ("webp called jpg", "odd.jpg", picture("WEBP", lossless=True), ODD),
    ("picture without an ending", "odd", PNG, ODD),
    ("one pixel", "odd.png", _saved(Image.new("RGB", (1, 1), tuple(ODD))), ODD),
    ("one column", "odd.png", _saved(Image.new("RGB", (1, 5000), tuple(ODD))), ODD),
    ("16 bits grey", "odd.png", _saved(Image.fromarray(np.full((9, 9), 100 << 8, np.uint16))),
     [100] * 3),
    ("8 bits grey", "odd.png", _alpha("L", 77), [77] * 3),
    ("one bit", "odd.png", _alpha("1", 1), [255] * 3),
    ("grey and alpha", "odd.png", _alpha("LA", (77, 0)), [77] * 3),
    ("colour and alpha", "odd.png", _alpha("RGBA", (*ODD, 0)), ODD),
    ("cmyk", "odd.jpg", _saved(Image.new("CMYK", (16, 16), (0, 0, 0, 155)), "JPEG"), [100] * 3),
    ("palette", "odd.png", _saved(Image.new("RGB", (16, 16), tuple(ODD)).quantize(2)), ODD),
    ("palette with transparency", "odd.png", _saved(
        Image.new("RGB", (16, 16), tuple(ODD)).quantize(2), transparency=0), ODD),
    ("animated gif", "odd.gif", _frames("GIF"), ODD),
    ("animated webp", "odd.webp", _frames("WEBP", lossless=True), ODD),
    ("animated png", "odd.png", _frames("PNG"), ODD),
    ("profile of 2 MB", "odd.png", _with_chunk(_chunk(b"iCCP", _profile(NOISE))), ODD),
    ("profile of 200 MB of zeros", "odd.png", _with_chunk(_chunk(b"iCCP", BOMB)), ODD),
    ("text of 200 MB of zeros", "odd.png", _with_chunk(_chunk(b"zTXt", BOMB)), ODD),
    ("text with a wrong checksum", "odd.png", _with_chunk(_chunk(b"tEXt", b"a\0b", crc=1)), ODD),
    ("20,000 texts", "odd.png", _with_chunk(*[_chunk(b"tEXt", b"a\0b")] * 20_000), ODD),
    ("unknown chunk", "odd.png", _with_chunk(_chunk(b"zzZz", b"abc")), ODD),
    ("exif of garbage", "odd.png", _with_chunk(_chunk(b"eXIf", os.urandom(64))), ODD),
    ("jpeg with 10 comments of 60 kB", "odd.jpg", JPEG[:2]
     + (b"\xff\xfe\xea\x62" + b"x" * 60_000) * 10 + JPEG[2:], ODD),
    ("jpeg with garbage for exif", "odd.jpg", picture("JPEG", exif=b"Exif\0\0" + b"\xff" * 40,
     quality=95), ODD),
    ("junk behind the end", "odd.jpg", JPEG + b"junk" * 1000, ODD),
    ("zeros behind the end", "odd.jpg", JPEG + bytes(5000), ODD),
    ("progressive jpeg", "odd.jpg", picture("JPEG", progressive=True, quality=95), ODD),
]  # fmt: skip


def _of(name, file, data, refused=(), colour=None):
    def make(raw):
        settings = karpathy(raw, {file: ["a cat"]})
        (raw / "images" / file).write_bytes(data)
        return settings

    accepted = (
        {}
        if refused
        else {"names": ["train.png", "also.png", file], "colours": [GOOD, GOOD, colour]}
    )
    return Case(name, make, (file, *refused) if refused else (), accepted)


def _placed(name, place, refused=(), accepted=None):
    """A case in which `place(path)` makes the odd entry."""

    def make(raw):
        settings = karpathy(raw, {"odd.png": ["a cat"]})
        place(raw / "images" / "odd.png")
        return settings

    return Case(name, make, refused, accepted or {})


def _sparse(path):
    with path.open("wb") as handle:
        handle.truncate(10 << 30)


def _linked_folder(path):
    path.with_name("deep").mkdir()
    (path.with_name("deep") / "odd.png").write_bytes(PNG)
    (path.with_name("deep") / "up").symlink_to("..")


def _unreadable(path):
    path.mkdir()


TWO = {"names": ["train.png", "also.png", "odd.png"], "colours": [GOOD, GOOD, ODD]}
FILES = [
    _placed("fifo", os.mkfifo, ("odd.png", "missing")),
    _placed("fifo that nobody names", lambda path: (
        path.write_bytes(PNG), os.mkfifo(path.with_name("x.png"))), (), TWO),
    _placed("link to /dev/zero", lambda path: path.symlink_to("/dev/zero"), ("odd.png",)),
    _placed("link to /dev/random", lambda path: path.symlink_to("/dev/random"), ("odd.png",)),
    _placed("link to a terminal", lambda path: path.symlink_to("/dev/tty"), ("odd.png",)),
    _placed("broken link", lambda path: path.symlink_to("gone"), ("odd.png", "missing")),
    _placed("link to itself", lambda path: path.symlink_to("odd.png"), ("odd.png",)),
    _placed("link to a picture", lambda path: (
        path.with_name("true.png").write_bytes(PNG), path.symlink_to("true.png")), (), TWO),
    _placed("hard link", lambda path: (
        path.with_name("true.png").write_bytes(PNG),
        os.link(path.with_name("true.png"), path)), (), TWO),
    _placed("folder with a picture's name", _unreadable, ("odd.png",)),
    _placed("folder that links upwards", _linked_folder, (), TWO),
    _placed("sparse file of 10 GB", _sparse, ("odd.png", "10,737,418,240 bytes")),
    _placed("picture that is not there", lambda path: None, ("odd.png", "missing")),
    _placed("same name in two folders", lambda path: (
        path.write_bytes(PNG), path.with_name("b").mkdir(),
        (path.with_name("b") / "odd.png").write_bytes(PNG)), ("odd.png", "belongs to 2 files")),
]  # fmt: skip
CASES = [
    *(_of(name, file, data, words) for name, file, data, words in REFUSED),
    *(_of(name, file, data, colour=colour) for name, file, data, colour in ACCEPTED),
    _of("exif that turns", "odd.png", _saved(_halves(), exif=_exif(6)), colour=[105, 120, 105]),
    *FILES,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_picture(case, tmp_path):
    check(case, Path(tmp_path))
