"""Turns the bytes of one picture into a square RGB array, and each fault of a file into a message.

As in ALBEF and BLIP, a picture is resized straight to the square by bicubic interpolation, whatever
its aspect ratio.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

from tasks.core.data.file_kinds import HEAD_BYTES, PICTURES, kind_of
from tasks.core.data.left_out import Unusable

LOGGER = logging.getLogger("vl_distillery")

# Only formats of pixels: for an EPS file PIL would start Ghostscript. JPEG includes the MPO format
# of some cameras.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_JPEG, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
# A whole picture does not end in so many zeros, because entropy coding leaves no long runs of them.
_ZEROS = 64
# Bytes of a WebP before its first chunk.
_RIFF_BYTES = 12
_PNG = b"\x89PNG\r\n\x1a\n"


def open_image(data: bytes, source: str) -> Image.Image:
    """Return the picture in `data` with its header read and its pixels not yet decoded.

    Not for several threads at once: it changes the warning filters for a moment.

    Args:
        source: the file (and the field that names it), which starts every message.

    Raises:
        Unusable: not an image of one of `FORMATS`, or far too many pixels.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(_without_metadata(data)), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Unusable(
            source,
            "picture of too many pixels",
            f"the image is too large to decode safely ({error}); scale the file down",
        ) from error
    # The header parsers of PIL raise errors of nearly any type for hostile bytes.
    except Exception as error:
        kind = kind_of(data[:HEAD_BYTES])
        allowed = ", ".join(FORMATS)
        if kind in PICTURES:
            raise Unusable(
                source,
                f"picture in the format {kind}",
                f"the image is {kind}, allowed are {allowed}; convert the file",
            ) from error
        reason, found = "damaged picture", ""
        if kind:
            reason, found = f"file that is {kind}, no picture", f"; it is {kind}"
        raise Unusable(
            source,
            reason,
            f"not an image ({len(data)} bytes beginning with {data[:8]!r}); allowed are {allowed}"
            f"{found}; replace the file",
        ) from error
    if _has_lost_its_end(data, image.width * image.height):
        raise Unusable(
            source,
            "damaged picture",
            "the image cannot be decoded (its end is zeros); damaged, replace the file",
        )
    return image


def _without_metadata(data: bytes) -> bytes:
    """Return a PNG without the chunks that decide no pixel: texts, profiles, times.

    PIL refuses the whole picture when such a chunk is large or damaged. An undamaged EXIF chunk
    stays, because it holds the orientation. If the length of a chunk does not fit, everything from
    there on stays, and PIL judges it.
    """
    if not data.startswith(_PNG):
        return data
    kept, place = [_PNG], len(_PNG)
    # A chunk is its length (4 bytes), type (4), content and checksum (4)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        chunk = data[place:end]
        # The format marks chunks that a decoder needs by a capital first letter of the type
        is_critical = chunk[4:5].isupper()
        if is_critical or (chunk[4:8] == b"eXIf" and _is_whole(chunk)):
            kept.append(chunk)
        place = end
    return b"".join([*kept, data[place:]])


def _is_whole(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _has_lost_its_end(data: bytes, num_pixels: int) -> bool:
    """Return whether a JPEG or WebP ends in zeros, as a broken download does. Decoders do not
    complain and paint the lost pixels grey.
    """
    if data.startswith(_JPEG) and data.endswith(bytes(_ZEROS)):
        # Inside a scan a zero byte follows each 0xff, so neither mark can be there. Zeros behind
        # the end mark are padding, and zeros in a scan without it are lost pixels.
        return data.rfind(_END_OF_IMAGE) < data.rfind(_START_OF_SCAN)
    if data.startswith(b"RIFF"):
        # One colour on 36 million pixels ends in 3,464 zeros: 1 byte for 10,000 pixels.
        return _num_webp_zeros(data) > _ZEROS + num_pixels // 5_000
    return False


def _num_webp_zeros(data: bytes) -> int:
    """Return how many zeros end the chunk that holds the pixels of a WebP."""
    place = _RIFF_BYTES
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        content = data[place + 8 : place + 8 + length]
        if kind in (b"VP8 ", b"VP8L"):
            return len(content) - len(content.rstrip(b"\0"))
        place += 8 + length + length % 2
    return 0


def decode(image: Image.Image, source: str, *, image_size: int, max_pixels: int) -> np.ndarray:
    """Return the picture as RGB at the wanted size.

    The EXIF orientation is applied. Other modes are converted to RGB. An alpha channel is dropped
    and not blended, as in ALBEF and BLIP. Animations give their first frame. A picture that has the
    size already is not resampled.

    Args:
        image: from `open_image`, or drawn.
        source: the file (and the field that names it), which starts every message.
        image_size: side of the square, pixels.
        max_pixels: largest width x height that is decoded at all, pixels.

    Returns:
        (image_size, image_size, 3) uint8.

    Raises:
        Unusable: too many pixels (found before anything is decoded), damaged data, or a mode
            without conversion.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise Unusable(
            source,
            "picture of too many pixels",
            f"the image has {width} x {height} = {width * height:,} pixels, allowed are "
            f"{max_pixels:,}; scale the file down or raise prepare_data.max_pixels in params.yaml",
        )
    if image.mode in ("I", "F"):
        raise Unusable(
            source,
            "picture without a range of values",
            f"mode {image.mode} has no defined range of values, allowed are 8 or 16 bits a "
            "channel; convert the file",
        )
    try:
        image.load()
        upright = _upright(image, source)
        picture = _to_rgb(upright)
        if picture.size != (image_size, image_size):
            picture = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
    # For damaged data PIL's decoders raise OSError, SyntaxError, struct.error, EOFError and others.
    except Exception as error:
        raise Unusable(
            source,
            "damaged picture",
            f"the image cannot be decoded ({error}); truncated or damaged, replace the file",
        ) from error
    return np.asarray(picture, dtype=np.uint8)


def _upright(image: Image.Image, source: str) -> Image.Image:
    """Return the picture turned as its EXIF data say, or unturned when they cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    # The EXIF parser of PIL raises errors of nearly any type. The pixels are whole without it.
    except Exception as error:
        LOGGER.warning(
            "%s: its EXIF data cannot be read (%s); the picture is taken as it is stored",
            source,
            error,
        )
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I;16"):
        # Scientific and scanned PNG or TIFF have 16 bits. PIL's own conversion would clip them to
        # 255, so the upper 8 bits are taken.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert(
            "RGB"
        )
    # PIL warns when a palette with transparency is converted without going through RGBA
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
