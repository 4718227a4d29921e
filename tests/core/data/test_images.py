"""One picture: metadata never refuses intact pixels, and what is no picture is named."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tasks.core.data.images import decode, open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def _bytes(kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(kind, data, is_whole=True):
    checksum = zlib.crc32(kind + data) ^ (not is_whole)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png(*chunks):
    """A PNG with chunks after its header."""
    data = _bytes()
    return data[:33] + b"".join(chunks) + data[33:]


def _decoded(data):
    return decode(open_image(data, "a.png"), "a.png", image_size=9, max_pixels=1000)


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"tEXt", b"Comment\0hello", is_whole=False),
        _chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000))),
        _chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(80_000_000))),
        _chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(20_000_000))),
        _chunk(b"iCCP", b"icc\0\0" + b"not compressed"),
        _chunk(b"pHYs", b"x"),
        _chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
        _chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff", is_whole=False),
        _chunk(b"tEXt", b"a\0b") * 10_000,
    ],
)
def test_metadata_of_a_png_decides_no_pixel(chunk):
    expected = _decoded(_bytes())
    assert np.array_equal(_decoded(_png(chunk)), expected)
    behind = _bytes()
    assert np.array_equal(_decoded(behind[:-12] + chunk + behind[-12:]), expected)


def test_a_png_keeps_its_orientation_and_its_text_is_harmless():
    exif = Image.Exif()
    exif[0x0112] = 3
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b")
    turned = decode(
        open_image(_bytes(exif=exif, pnginfo=info), "a"), "a", image_size=20, max_pixels=1000
    )
    plain = decode(open_image(_bytes(), "a"), "a", image_size=20, max_pixels=1000)
    assert abs(turned.astype(int) - plain[::-1, ::-1]).mean() < 1


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f"]
)
def test_exif_of_a_jpeg_that_cannot_be_read_is_no_rotation(exif):
    assert np.array_equal(
        _decoded(_bytes("JPEG", exif=exif, quality=90)), _decoded(_bytes("JPEG", quality=90))
    )


@pytest.mark.parametrize("place", [20, 40, 60])
def test_damage_inside_the_pixels_of_a_png_is_refused(place):
    data = bytearray(_bytes())
    data[place] ^= 1
    with pytest.raises(ValueError, match=r"a\.png: (not an image|the image cannot be decoded)"):
        _decoded(bytes(data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_whose_end_is_zeros_is_damaged_and_zeros_behind_its_end_are_not(options):
    pixels = np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    half = len(data) // 2
    with pytest.raises(ValueError, match="its end is zeros"):
        open_image(data[:half] + bytes(len(data) - half), "a.jpg")
    assert open_image(data + bytes(5000), "a.jpg").size == (90, 90)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "the image is AVIF, allowed are JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "the image is HEIC, allowed are JPEG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "the image is JPEG 2000, allowed"),
        (b"\xff\x4f\xff\x51\0\x2f", "the image is JPEG 2000, allowed"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "the image is JPEG XL, allowed"),
        (b"\0\0\x01\0\x01\0\x10\x10", "the image is ICO, allowed"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the image is SVG, allowed"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<svg/>", "the image is SVG, allowed"),
        (b"\n<!DOCTYPE HTML>\n<html>", "not an image .*it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"not an image .*git-LFS pointer \(run"),
        (b"PK\x03\x04xxxx", "not an image .*it is a zip archive"),
        (b"%PDF-1.4", "not an image .*it is a PDF"),
        (bytes(900), "not an image .*it is zero bytes alone"),
        (b"", "not an image .*it is an empty file"),
    ],
)
def test_what_is_no_picture_that_is_read_is_named(data, message):
    with pytest.raises(ValueError, match=rf"a\.jpg: {message}"):
        open_image(data, "a.jpg")
