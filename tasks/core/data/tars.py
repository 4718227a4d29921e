"""The members of an uncompressed tar, and whether it is whole.

Python's tarfile takes a damaged header for the end of the archive. Here every byte is accounted
for: members, then zero blocks, then nothing. A header is parsed by `tarfile.TarInfo.frombuf`.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tasks.core.data.file_kinds import kind_of_file
from tasks.core.data.left_out import printable

_BLOCK = tarfile.BLOCKSIZE
# Largest header of a long name or of comments that is read, bytes: a name has 4096 at most.
_MAX_HEADER = 1 << 20
# Zeros that end a tar: two blocks, and what fills the last record.
_MAX_END = 2 * _BLOCK + tarfile.RECORDSIZE - 1
_RECORD = re.compile(rb"(\d{1,10}) ([^=\n]+)=")
# Headers about the member that follows, and members without content whatever size they state.
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_EMPTY = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One member that is no folder.

    Attributes:
        offset, num_bytes: where its content lies in the tar.
        is_file: it has bytes of its own, or is a hard link to such a member before it; links,
            devices and sparse files have none.
    """

    name: str
    offset: int
    num_bytes: int
    is_file: bool


@dataclass(frozen=True)
class Tar:
    """The members in their order, and whether zero blocks say that these are all."""

    members: list[Member]
    has_end: bool


def read_tar(path: Path) -> Tar:
    """Return the members of a tar; of its content only the headers are read.

    Raises:
        ValueError: it is cut short, zeroed, changed or compressed; the message has the byte.
    """
    num_bytes, place = path.stat().st_size, 0
    found: list[Member] = []
    by_name: dict[str, Member] = {}
    with path.open("rb") as handle:
        while (info := _next(handle, path, place, num_bytes)) is not None:
            place = info.offset_data + _padded(info.size)
            if info.isdir():
                continue
            is_file = info.isreg() and "GNU.sparse.major" not in info.pax_headers
            member = Member(info.name, info.offset_data, info.size, is_file)
            # tar packs a file with several names once; the other names are links to the first.
            if info.islnk() and info.linkname in by_name:
                target = by_name[info.linkname]
                member = Member(info.name, target.offset, target.num_bytes, target.is_file)
            by_name[info.name] = member
            found.append(member)
        _check_end(handle, path, place, num_bytes)
    return Tar(found, has_end=num_bytes > place)


def _next(handle: BinaryIO, path: Path, place: int, num_bytes: int) -> tarfile.TarInfo | None:
    """Return the header at `place`, or None where zeros or nothing is; headers of a long name or of
    pax records are applied to the one they precede.
    """
    extended: dict[str, str] = {}
    while True:
        handle.seek(place)
        block = handle.read(_BLOCK)
        if not block.strip(b"\0"):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if info.type not in _EXTENSIONS:
                _apply(info, extended)
        except (tarfile.HeaderError, ValueError) as error:
            raise _damaged(path, place, f"no header of a member is there ({error})") from error
        info.offset_data = place + _BLOCK
        if not 0 <= info.size <= num_bytes - info.offset_data:
            raise _damaged(
                path,
                place,
                f"member {info.name!r} should have {info.size} bytes, the file has "
                f"{num_bytes - info.offset_data} more",
            )
        if info.type not in _EXTENSIONS:
            return info
        # Headers for the whole archive hold a comment at most: they are stepped over unread.
        if info.size > _MAX_HEADER and info.type != tarfile.XGLTYPE:
            raise _damaged(path, place, f"a header has {info.size} bytes, allowed {_MAX_HEADER}")
        if info.type != tarfile.XGLTYPE:
            extended.update(_records(info.type, handle.read(info.size)))
        place = info.offset_data + _padded(info.size)


def _apply(info: tarfile.TarInfo, extended: dict[str, str]) -> None:
    """Give a header the name, the target and the size that the headers before it hold."""
    info.pax_headers = extended
    info.name = extended.get("path", info.name)
    info.linkname = extended.get("linkpath", info.linkname)
    info.size = int(extended.get("size", info.size)) if info.type not in _EMPTY else 0
    if info.type == tarfile.GNUTYPE_SPARSE:
        raise ValueError(f"member {info.name!r} is stored sparse; write the tar without --sparse")


def _records(kind: bytes, data: bytes) -> dict[str, str]:
    """Return the pax records of a header, or its long name under the key that pax has for it."""
    if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
        return {key: _text(data.split(b"\0", 1)[0])}
    records: dict[str, str] = {}
    place = 0
    while (match := _RECORD.match(data, place)) is not None:
        end = place + int(match[1])
        records[_text(match[2])] = _text(data[match.end() : end - 1])
        place = max(end, match.end())
    return records


def _check_end(handle: BinaryIO, path: Path, place: int, num_bytes: int) -> None:
    """Raise ValueError unless zeros alone follow, no more than a record explains."""
    if num_bytes % _BLOCK:
        raise _damaged(path, num_bytes, f"the file ends there, inside a block of {_BLOCK} bytes")
    handle.seek(place)
    while block := handle.read(1 << 20):
        rest = block.lstrip(b"\0")
        if rest:
            where = handle.tell() - len(rest)
            raise _damaged(path, where, f"data follow the zeros at byte {place}, which end a tar")
    if num_bytes - place > _MAX_END:
        raise _damaged(
            path,
            place,
            f"{num_bytes - place} zero bytes follow, at most {_MAX_END} end a tar; a tar with "
            "larger records is to be written again",
        )


def _damaged(path: Path, place: int, problem: str) -> ValueError:
    kind = kind_of_file(path) if place == 0 else ""
    return ValueError(
        printable(
            f"{path}: not a whole, uncompressed tar: at byte {place}, {problem}{kind}; get the "
            "file again, or unpack it when it is compressed"
        )
    )


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
