"""Lists the members of an uncompressed tar, and checks whether it is whole.

A tar is a sequence of members, each a header block of 512 bytes and its content, padded to whole
blocks. Zero blocks end it. Python's tarfile takes a damaged header for the end. Here every byte is
accounted for: members, then zeros, then nothing. `tarfile.TarInfo.frombuf` parses a header.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from tasks.core.data.file_kinds import kind_of_file
from tasks.core.data.left_out import printable

_BLOCK = tarfile.BLOCKSIZE
# Largest header of a long name or of comments that is read, bytes. A name has at most 4096.
_MAX_HEADER = 1 << 20
# Most members of one tar, folders included. They take about ten seconds and 200 MB in a reader.
MAX_MEMBERS = 300_000
# A tar of more bytes is checked before all of it is read for its digest.
_LARGE = 1 << 30
# Programs fill the last record of a tar with zeros. This is the largest record allowed for, bytes.
_MAX_RECORD = 1 << 22
# Most headers in a row before a member: for its names, its comments and the whole archive.
_MAX_EXTENSIONS = 16
# Bytes at the end of the last member that are looked at when the end of the tar tells too little.
_LAST = 64
_RECORD = re.compile(rb"(\d{1,10}) ([^=\n]+)=")
# Types of headers about the next member, and types of members that have no content even if they
# state a size
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
        is_file: whether the range holds the bytes of a file. That is so for plain files and for
            hard links to an earlier one. Other links, devices and sparse files have no such range.
    """

    name: str
    offset: int
    num_bytes: int
    is_file: bool


@dataclass(frozen=True)
class Tar:
    """The members in their order.

    Attributes:
        doubt: why the end of the tar does not prove that these are all, or "".
    """

    members: list[Member]
    doubt: str


def read_tar(path: Path) -> Tar:
    """Return the members of a tar. Only headers are read, and in doubt the end of the last member.

    Raises:
        ValueError: it is cut short, zeroed, changed or compressed, and the message has the byte. Or
            it has more than `MAX_MEMBERS` members.
    """
    num_bytes, place, count = path.stat().st_size, 0, 0
    found: list[Member] = []
    by_name: dict[str, Member] = {}
    with path.open("rb", buffering=0) as handle:
        while (info := _next(handle, path, place, num_bytes)) is not None:
            place, count = info.offset_data + _padded(info.size), count + 1
            if count > MAX_MEMBERS:
                raise ValueError(
                    f"{path}: has more than {MAX_MEMBERS:,} members, allowed are that many in one "
                    "tar; write them as several tars"
                )
            if info.isdir():
                continue
            is_file = info.isreg() and "GNU.sparse.major" not in info.pax_headers
            member = Member(info.name, info.offset_data, info.size, is_file)
            # tar packs a file with several names once. Its other names are hard links to the first.
            if info.islnk() and info.linkname in by_name:
                target = by_name[info.linkname]
                member = Member(info.name, target.offset, target.num_bytes, target.is_file)
            by_name[info.name] = member
            found.append(member)
        # A copy that broke off where its space was reserved ends in zeros too. They then begin
        # inside the last member.
        doubt = _doubt(handle, path, place, num_bytes)
        if doubt and found and found[-1].num_bytes >= _LAST:
            last = found[-1]
            end = os.pread(handle.fileno(), _LAST, last.offset + last.num_bytes - _LAST)
            if not end.strip(b"\0"):
                raise _damaged(path, last.offset, f"member {last.name!r} ends in zeros")
    return Tar(found, doubt)


def tar_digest(path: Path, digest_of: Callable[[Path], str]) -> str:
    """Return the digest of a tar. A large one is checked first, since a file with holes may state
    any size and take hours to read.

    Raises:
        ValueError: see `read_tar`.
    """
    if path.stat().st_size > _LARGE:
        read_tar(path)
    return digest_of(path)


def _next(handle: FileIO, path: Path, place: int, num_bytes: int) -> tarfile.TarInfo | None:
    """Return the header of the next member from `place` on, or None at zeros or at the end. Headers
    with a long name or with pax records are applied to the member behind them.
    """
    extended: dict[str, str] = {}
    for _ in range(_MAX_EXTENSIONS):
        # pread, because a member is found by its place and nothing between is read
        block = os.pread(handle.fileno(), _BLOCK, place)
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
        # Headers for the whole archive hold at most a comment, so they are skipped unread
        if info.size > _MAX_HEADER and info.type != tarfile.XGLTYPE:
            raise _damaged(path, place, f"a header has {info.size} bytes, allowed {_MAX_HEADER}")
        if info.type != tarfile.XGLTYPE:
            extended.update(
                _records(info.type, os.pread(handle.fileno(), info.size, info.offset_data))
            )
        place = info.offset_data + _padded(info.size)
    raise _damaged(path, place, f"{_MAX_EXTENSIONS} headers in a row precede no member")


def _apply(info: tarfile.TarInfo, extended: dict[str, str]) -> None:
    """Give a header the name, the link target and the size from the headers before it."""
    info.pax_headers = extended
    info.name = extended.get("path", info.name)
    info.linkname = extended.get("linkpath", info.linkname)
    info.size = int(extended.get("size", info.size)) if info.type not in _EMPTY else 0
    if info.type == tarfile.GNUTYPE_SPARSE:
        raise ValueError(f"member {info.name!r} is stored sparse; write the tar without --sparse")


def _records(kind: bytes, data: bytes) -> dict[str, str]:
    """Return the pax records of a header, or its GNU long name under the key that pax uses."""
    if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
        return {key: _text(data.split(b"\0", 1)[0])}
    records: dict[str, str] = {}
    place = 0
    # A record is "<length> <key>=<value>\n", and the length counts all of it
    while (match := _RECORD.match(data, place)) is not None:
        end = place + int(match[1])
        records[_text(match[2])] = _text(data[match.end() : end - 1])
        # A false length must not lead backwards, into an endless loop
        place = max(end, match.end())
    return records


def _doubt(handle: FileIO, path: Path, place: int, num_bytes: int) -> str:
    """Return why the end of a tar at `place` does not prove that it is whole, or "".

    Raises:
        ValueError: something else than zeros follows, or more zeros than a record explains.
    """
    if num_bytes % _BLOCK:
        raise _damaged(path, num_bytes, f"the file ends there, inside a block of {_BLOCK} bytes")
    num_zeros = num_bytes - place
    # `tar -b` sets the size of records, as a rule a power of two, and a file is a whole number of
    # them. So the largest power of two that divides its size bounds the size of a record.
    record = min(num_bytes & -num_bytes, _MAX_RECORD)
    most = 2 * _BLOCK + max(record, tarfile.RECORDSIZE)
    handle.seek(place)
    rest = handle.read(most).lstrip(b"\0")
    if rest:
        where = handle.tell() - len(rest)
        raise _damaged(path, where, f"data follow the zeros at byte {place}, which end a tar")
    if num_zeros >= most:
        raise _damaged(path, place, f"{num_zeros} zero bytes follow, at most {most - 1} end a tar")
    if num_zeros < 2 * _BLOCK:
        return "tar without the two zero blocks that end it"
    if num_zeros >= 2 * _BLOCK + tarfile.RECORDSIZE:
        return "tar with more zeros at its end than a record of 10,240 bytes explains"
    return ""


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
