"""Unpacks archives by rules that no archive decides: plain files alone, each inside the folder and
once, and no more bytes than an archive of pictures may have.

Members go to files, or into one uncompressed tar, which readers read in place: DVC stores one large
file in the time of a few small ones. A compressed tar is first unpacked to a tar; `read_tar` then
accounts for every byte of it.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import fnmatch
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tasks.core.data.annotations import check_name
from tasks.core.data.file_kinds import HEAD_BYTES, NOISE, kind_of
from tasks.core.data.tars import MAX_MEMBERS, read_tar
from tasks.core.foundations import durable
from tasks.fetching.sources import File

# An archive that unpacks to more than both is no archive of pictures: they are compressed already.
_MAX_RATIO, _MIN_LIMIT = 50, 1 << 26
_BLOCK = 1 << 20
_COMPRESSED = {"gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open}
_TARS = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_ENCRYPTED = 1  # bit of the flags of a zip member
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Member:
    """A plain file of an archive."""

    name: str
    num_bytes: int
    open: Callable[[], IO[bytes]]


def unpack(path: Path, file: File, folder: Path, progress: Progress) -> dict[str, int]:
    """Put what is kept of a fetched file into `folder`; return how many members were left out, by
    reason.

    Args:
        path: the file, which stays as it is; beside it is room for what is unpacked on the way.
        progress: called as progress(done, total) in MB.

    Raises:
        ValueError: the archive is damaged, too large, encrypted, or has a member that is no plain
            file of its own inside the folder.
        OSError: the disk is too small.
    """
    # By its first bytes: servers answer with web pages under the name of an archive
    with path.open("rb") as handle:
        kind = kind_of(handle.read(HEAD_BYTES)) or ""
    if kind == "a web page":
        raise ValueError(
            f"{file.name}: is a web page, allowed is the file itself; look at its address with a "
            "browser, and get the file another way for --from-dir"
        )
    compression = next((name for name in _COMPRESSED if kind.startswith(name)), "")
    with _damage_named(file):
        if kind.startswith("a zip"):
            with zipfile.ZipFile(path) as archive:
                return _write(_zip_members(archive, path, file), path, file, folder, progress)
        if compression and file.name.lower().endswith(_TARS):
            tar = path.with_name(f"{path.name}.tar")
            try:
                _decompress(path, compression, tar, file)
                return _write(_tar_members(tar, file), path, file, folder, progress)
            finally:
                tar.unlink(missing_ok=True)
        if kind == "a tar" or file.name.lower().endswith(".tar"):
            # Stays as it is: readers read it in place
            _kept(_tar_members(path, file), file)
    if file.tar:
        raise ValueError(f"{file.name}: is {kind or 'of no known kind'}, allowed is an archive")
    shutil.copyfile(path, folder / file.name)
    durable.sync(folder / file.name)
    return {}


@contextlib.contextmanager
def _damage_named(file: File) -> Iterator[None]:
    """Turn what libraries raise about an archive into one message."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(
            f"{file.name}: the archive is damaged or of a kind that is not read ({error}); get it "
            "another way, or unpack it yourself, and use --from-dir"
        ) from error


def _zip_members(archive: zipfile.ZipFile, path: Path, file: File) -> list[_Member]:
    found = []
    for info in archive.infolist():
        if info.is_dir():
            continue
        # The upper half is the mode of Unix; it is 0 where the archive was made on another system
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _refused(file, info.filename, "is a link or a device, allowed are plain files")
        if info.flag_bits & _ENCRYPTED:
            raise _refused(file, info.filename, "is encrypted, allowed are plain files")
        opener = _zip_opener(archive, info)
        found.append(_Member(info.filename, info.file_size, opener))
    return found


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _tar_members(tar: Path, file: File) -> list[_Member]:
    found = []
    for member in read_tar(tar).members:
        if not member.is_file:
            raise _refused(file, member.name, "is a link or a device, allowed are plain files")
        found.append(_Member(member.name, member.num_bytes, _tar_opener(tar, member.offset)))
    return found


def _tar_opener(tar: Path, offset: int) -> Callable[[], IO[bytes]]:
    def open_at() -> IO[bytes]:
        handle = tar.open("rb")
        handle.seek(offset)
        return handle

    return open_at


def _decompress(path: Path, compression: str, tar: Path, file: File) -> None:
    """Write the tar inside a compressed one, in blocks: a bomb is seen before it is whole."""
    limit, done = _limit(path), 0
    opener: Any = _COMPRESSED[compression]
    try:
        with opener(path, "rb") as packed, tar.open("wb") as unpacked:
            while block := packed.read(_BLOCK):
                done += len(block)
                if done > limit:
                    raise _too_large(file, done, limit)
                unpacked.write(block)
    except OSError as error:
        # Libraries raise it for damaged data too, without a number
        if error.errno is None:
            raise EOFError(str(error)) from error
        raise


def _write(
    members: list[_Member], path: Path, file: File, folder: Path, progress: Progress
) -> dict[str, int]:
    """Write the members that are kept; return how many were not, by reason."""
    if len(members) > MAX_MEMBERS:
        raise ValueError(
            f"{file.name}: has {len(members):,} members, allowed are {MAX_MEMBERS:,}; unpack it "
            "yourself and use --from-dir"
        )
    total = sum(member.num_bytes for member in members)
    if total > _limit(path):
        raise _too_large(file, total, _limit(path))
    free = shutil.disk_usage(folder).free
    if total > free:
        raise OSError(
            f"too little disk space for {folder}: {total:,} bytes are needed to unpack "
            f"{file.name}, {free:,} are free; free some"
        )
    kept, left_out = _kept(members, file)
    done = 0
    with _sink(folder, file) as put:
        for name, member in kept.items():
            put(name, member)
            done += member.num_bytes
            progress(done >> 20, max(total >> 20, 1))
    return left_out


def _kept(
    members: list[_Member], file: File
) -> tuple[dict[PurePosixPath, _Member], dict[str, int]]:
    """Return the members that are kept, and how many are not, by reason."""
    kept: dict[PurePosixPath, _Member] = {}
    left_out: dict[str, int] = {}
    for member in members:
        # Tars of a folder name their members `./...`
        name = PurePosixPath(check_name(member.name.removeprefix("./"), file.name))
        reason = _left_out(name, file)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        if name in kept:
            raise _refused(file, member.name, "is there twice, allowed is once")
        kept[name] = member
    if not kept:
        raise ValueError(
            f"{file.name}: holds nothing that matches {', '.join(file.kept)}; received "
            f"{', '.join(member.name for member in members[:5]) or 'no member'}; get another file"
        )
    return kept, left_out


def _left_out(name: PurePosixPath, file: File) -> str:
    if any(part in NOISE for part in name.parts):
        return "file of an operating system"
    if not any(fnmatch.fnmatch(name.name, pattern) for pattern in file.kept):
        return "member of another dataset, or no picture"
    return ""


@contextlib.contextmanager
def _sink(folder: Path, file: File) -> Iterator[Callable[[PurePosixPath, _Member], None]]:
    """Give what writes a member: as a file, or into the tar that `file` names."""
    if not file.tar:
        yield lambda name, member: _as_file(folder / name, member, file)
        return
    target = folder / file.tar
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w") as archive:

        def add(name: PurePosixPath, member: _Member) -> None:
            info = tarfile.TarInfo(name.as_posix())
            info.size = member.num_bytes
            with member.open() as handle:
                archive.addfile(info, handle)

        yield add
    durable.sync(target)


def _as_file(path: Path, member: _Member, file: File) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x" fails where the file is there: two members may name one on some disks
        with path.open("xb") as target, member.open() as source:
            left = member.num_bytes
            while left and (block := source.read(min(left, _BLOCK))):
                target.write(block)
                left -= len(block)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refused(file, member.name, "is a file and a folder at once") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _refused(file, member.name, "has a name that is too long") from error
        raise
    if left:
        raise EOFError(f"member {member.name!r} lacks {left} bytes")
    durable.sync(path)


def _limit(path: Path) -> int:
    return max(_MIN_LIMIT, _MAX_RATIO * path.stat().st_size)


def _too_large(file: File, num_bytes: int, limit: int) -> ValueError:
    return ValueError(
        f"{file.name}: unpacks to {num_bytes:,} bytes or more, allowed are {limit:,}, {_MAX_RATIO} "
        "times its size; no archive of pictures does; get it again, or unpack it yourself and use "
        "--from-dir"
    )


def _refused(file: File, name: str, problem: str) -> ValueError:
    return ValueError(
        f"{file.name}: member {ascii(name)[:200]} {problem}; nothing is kept; unpack it yourself "
        "and use --from-dir"
    )
