"""Finds the format of a file by its first bytes, so that a message can name what a user gave."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Bytes of a file that `kind_of` looks at.
HEAD_BYTES = 512
# Format -> (place, bytes at this place), any of which is a sign of it. These pictures have
# formats that are not read.
PICTURES = {
    "AVIF": [(4, b"ftypavif"), (4, b"ftypavis")],
    "HEIC": [(4, b"ftyphei"), (4, b"ftyphev"), (4, b"ftypmif1"), (4, b"ftypmsf1")],
    "JPEG 2000": [(4, b"jP  \r\n\x87\n"), (0, b"\xff\x4f\xff\x51")],
    "JPEG XL": [(4, b"JXL \r\n\x87\n"), (0, b"\xff\x0a")],
    "ICO": [(0, b"\0\0\1\0")],
    "PSD": [(0, b"8BPS")],
    "SVG": [(0, b"<svg")],
}
_OTHERS = {
    "gzip data (unpack it)": [(0, b"\x1f\x8b")],
    "a zip archive (unpack it)": [(0, b"PK\3\4"), (0, b"PK\5\6")],
    "xz data (unpack it)": [(0, b"\xfd7zXZ")],
    "bzip2 data (unpack it)": [(0, b"BZh")],
    "zstd data (unpack it)": [(0, b"\x28\xb5\x2f\xfd")],
    "a 7z archive (unpack it)": [(0, b"7z\xbc\xaf")],
    "a tar": [(257, b"ustar")],
    "a git-LFS pointer (run `git lfs pull`)": [(0, b"version https://git-lfs")],
    "a web page": [(0, b"<!doctype html"), (0, b"<html")],
    "XML": [(0, b"<?xml")],
    "a Parquet table (reader `parquet`)": [(0, b"PAR1")],
    "an Arrow file (write it as Parquet)": [(0, b"ARROW1"), (0, b"\xff\xff\xff\xff")],
    "HDF5": [(0, b"\x89HDF")],
    "a NumPy array": [(0, b"\x93NUMPY")],
    "an SQLite database": [(0, b"SQLite format 3")],
    "a PDF": [(0, b"%PDF")],
    "UTF-16 text (write it as UTF-8)": [(0, b"\xff\xfe"), (0, b"\xfe\xff")],
}
_TABLES = {
    "image,caption": "captions.txt of Kaggle, which the readers `flickr_table` and `csv` read",
    "image_name": "results.csv of Flickr30K, which the reader `flickr_table` reads",
    "filepath": "a csv of open_clip, which the readers `flickr_table` and `csv` read",
}
# Files and folders that operating systems add.
NOISE = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


def kind_of(head: bytes) -> str | None:
    """Return the format of a file that begins with `head`, or None when it is not known here."""
    if not head.strip(b"\0"):
        return "zero bytes alone" if head else "an empty file"
    # Text formats may begin with a byte order mark and blanks, and with tags in capitals
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<?xml") and b"<svg" in head:
        return "SVG"
    for kind, marks in {**PICTURES, **_OTHERS}.items():
        for place, mark in marks:
            if head[place:].startswith(mark) or (place == 0 and text.lower().startswith(mark)):
                return kind
    return None


def kind_of_file(path: Path) -> str:
    """Return words that end a message with the format of a file, `; it is a zip archive`. For an
    unknown format return "".
    """
    with path.open("rb") as handle:
        kind = kind_of(handle.read(HEAD_BYTES))
    return f"; it is {kind}" if kind else ""


def kind_of_annotations(content: Any) -> str:
    """Return words that end a message with the format of an annotation file, or "".

    Args:
        content: parsed JSON, or the text of a file that is no JSON.
    """
    kind = ""
    if isinstance(content, str):
        for beginning, name in _TABLES.items():
            if content.startswith(beginning):
                kind = name
        if re.match(r"\{[^\n]*\}\s*\n\s*\{", content):
            kind = "JSON lines; write one list around them, with commas"
    elif isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        kind = "COCO's own json, which the reader `coco_json` reads"
    elif isinstance(content, dict) and "images" in content:
        kind = "a json of Karpathy, which the reader `karpathy` reads"
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        if "sentences" in content[0]:
            kind = 'the list alone of a json of Karpathy; write {"images": [...]} around it'
        elif "caption" in content[0]:
            kind = "a json of ALBEF or BLIP, which the reader `blip_json` reads"
    return f"; it is {kind}" if kind else ""
