"""One picture from bytes to a square RGB array, with every way a file can be bad turned into a
message.

The geometry is that of ALBEF and BLIP: bicubic straight to the square, whatever the aspect ratio.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

# Only decoders of pixel formats: PIL would start Ghostscript for an EPS file. JPEG includes the MPO
# of some cameras.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def open_image(data: bytes, source: str) -> Image.Image:
    """Return the picture in `data` with its header read and its pixels not yet decoded.

    Not for several threads at once: it changes the warning filters for a moment.

    Args:
        source: the file (and the field that names it), which starts every message.

    Raises:
        ValueError: not an image of one of `FORMATS`, or far too many pixels.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{source}: the image is too large to decode safely ({error}); scale the file down"
        ) from error
    # The header parsers of PIL raise nearly anything on hostile bytes.
    except Exception as error:
        allowed = ", ".join(FORMATS)
        raise ValueError(
            f"{source}: not an image ({len(data)} bytes beginning with {data[:8]!r}); allowed "
            f"are {allowed}; replace the file"
        ) from error


def decode(image: Image.Image, source: str, *, image_size: int, max_pixels: int) -> np.ndarray:
    """Return the picture as RGB at the wanted size.

    EXIF orientation is applied. Other modes are converted; an alpha channel is dropped, not
    blended, as in ALBEF and BLIP. Animations give their first frame. A picture that has the size
    already is not resampled.

    Args:
        image: from `open_image`, or drawn.
        source: the file (and the field that names it), which starts every message.
        image_size: side of the square, pixels.
        max_pixels: largest width x height that is decoded at all, pixels.

    Returns:
        (image_size, image_size, 3) uint8.

    Raises:
        ValueError: too many pixels (found before anything is decoded), damaged data, or a mode
            without conversion.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{source}: the image has {width} x {height} = {width * height:,} pixels, allowed "
            f"are {max_pixels:,}; "
            "scale the file down or raise prepare_data.max_pixels in params.yaml"
        )
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{source}: mode {image.mode} has no defined range of values, allowed are 8 or 16 "
            "bits a channel; convert the file"
        )
    try:
        upright = ImageOps.exif_transpose(image)
        picture = _to_rgb(upright)
        if picture.size != (image_size, image_size):
            picture = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
    # PIL's decoders raise OSError, SyntaxError, struct.error, EOFError and others on damaged data.
    except Exception as error:
        raise ValueError(
            f"{source}: the image cannot be decoded ({error}); truncated or damaged, replace the "
            "file"
        ) from error
    return np.asarray(picture, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I;16"):
        # Scientific and scanned PNG or TIFF: PIL's own conversion would clip 16 bits instead of
        # scaling them.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
