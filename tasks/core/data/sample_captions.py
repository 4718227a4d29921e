"""Reads the captions of an example that is stored as files of one key: `a.jpg` beside `a.txt` or
`a.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.core.data.annotations import (
    check_caption,
    check_captions,
    decode_text,
    lines_of,
    member,
    parse_json,
)
from tasks.core.data.left_out import LeftOut, Unusable

# Endings of files with captions.
ENDINGS = ("txt", "json")
# Largest file of captions that is read, bytes.
MAX_BYTES = 1 << 24


def captions_of(
    texts: Mapping[str, bytes], others: Sequence[str], where: str, left_out: LeftOut
) -> tuple[str, ...]:
    """Return the captions: the lines of `.txt` that are not blank. Without a `.txt`, they are
    `captions` (a list) or else `caption` of `.json`.

    Args:
        texts: {ending: bytes}, endings out of `ENDINGS`.
        others: endings of other files of the key, for messages.
        left_out: counts members of `.json` that are there twice.

    Raises:
        Unusable: there are no captions, or one cannot be used.
    """
    if "txt" in texts:
        text = decode_text(texts["txt"], f"{where}.txt")
        lines = [line for _, line in lines_of(text)]
        if len(lines) > 1 and "json" in texts:
            place = f"{where}.json"
            entry = parse_json(decode_text(texts["json"], place), place, left_out)
            whole = entry.get("caption") if isinstance(entry, dict) else None
            # img2dataset writes one caption into both files. Line breaks in it separate nothing.
            if isinstance(whole, str) and whole.split() == text.split():
                lines = [whole]
        return check_captions(lines, f"{where}.txt")
    if "json" not in texts:
        others = "".join(f", but .{ending}" for ending in others)
        raise Unusable(
            where,
            "image without captions",
            f"the image has no captions, received neither .txt nor .json{others}; add one to the "
            "shard",
        )
    where = f"{where}.json"
    entry = parse_json(decode_text(texts["json"], where), where, left_out)
    if isinstance(entry, dict) and "captions" in entry:
        return check_captions(entry["captions"], f"{where}.captions")
    return (check_caption(member(entry, "caption", str, where), f"{where}.caption"),)
