"""Fetches a dataset into `raw/`: downloads, checks, unpacks, and registers it with DVC.

Everything is made in `raw/.partial/<name>`, and renamed to `raw/<name>` when it is whole. After a
kill the next run goes on: it checks and takes whole files, and continues a partial one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.foundations import durable
from tasks.fetching import records
from tasks.fetching.download import Patience, download
from tasks.fetching.records import RAW
from tasks.fetching.sources import File, Source
from tasks.fetching.unpack import unpack
from tasks.progress import reporter
from tasks.store import artifacts, disk

PARTIAL = RAW / ".partial"


@dataclass(frozen=True)
class Fetched:
    """A dataset in `raw/`.

    Attributes:
        folder: where it lies.
        is_new: whether this call made it.
        left_out: members of archives that were not unpacked, or hidden files, by reason.
    """

    folder: Path
    is_new: bool
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """Its files, and links to files."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    @property
    def has_links(self) -> bool:
        """Whether its data lie elsewhere: DVC would put copies in the place of links."""
        return any(path.is_symlink() for path in (self.folder, *self.files))


def fetch(source: Source, patience: Patience | None = None) -> Fetched:
    """Return the folder of a dataset, downloaded unless it is there.

    Raises:
        ValueError: nobody gives the files, or they are not what was stated or recorded.
        OSError: nobody answers, or the disk is too small.
    """
    if not source.files:
        raise ValueError(
            f"{source.name}: its owners give it to who asks them, so nothing can be fetched; "
            f"needed are {', '.join(source.layout)} in one folder; ask as told above, and give "
            "the folder by --from-dir"
        )
    left_out: dict[str, int] = {}

    def build(work: Path, whole: Path) -> None:
        new = {}
        for file in source.files:
            new[file.key] = _obtain(file, work, source.name, patience or Patience())
        # All downloads first: one that fails ends the run before the work of unpacking
        for file in source.files:
            progress = reporter(f"unpack {file.name} (MB)")
            path = _kept(work, file)
            with _asked_again([file], work):
                for reason, count in unpack(path, file, whole, progress).items():
                    left_out[reason] = left_out.get(reason, 0) + count
        with _asked_again(source.files, work):
            _check_layout(source, whole, source.name)
        # Last: a digest is recorded only when the whole dataset is as it has to be
        records.keep(new)

    return _made(source, build, left_out)


def take(source: Source, folder: Path, *, is_linked: bool) -> Fetched:
    """Return the folder of a dataset, made from a folder of the user: copies, or links to each
    file.

    Of a known dataset only what its profile reads is taken. Of any other one everything is taken
    but hidden files and folders: `.git` may hold a password.

    Raises:
        ValueError, FileNotFoundError: the folder is not there, lacks something, or holds a link to
            a folder, a pipe or a device.
        OSError: the disk is too small.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--from-dir: there is no folder {str(folder)!r}; change it")
    # A folder that holds raw/ would be copied into itself
    if folder.resolve().is_relative_to(RAW.resolve()) or RAW.resolve().is_relative_to(
        folder.resolve()
    ):
        raise ValueError(
            f"--from-dir: received {folder}, which holds {RAW}/ or lies in it; allowed is a folder "
            f"elsewhere; data in {RAW}/ are read where they are"
        )
    _check_layout(source, folder, f"--from-dir: {folder}")
    left_out: dict[str, int] = {}
    files = sorted(_files(folder, source.layout, left_out))
    if not files:
        hidden = " and ".join(f"{count} x {reason}" for reason, count in left_out.items())
        besides = f" besides {hidden}, which stay out" if hidden else ""
        raise ValueError(
            f"--from-dir: {folder} holds no file{besides}; give the folder of the data"
        )

    def build(work: Path, whole: Path) -> None:
        total = sum(path.stat().st_size for path in files)
        progress, done = reporter(f"copy {source.name} (MB)"), 0
        if not is_linked:
            _check_room(total, whole)
        for path in files:
            target = whole / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_linked:
                target.symlink_to(path.resolve())
                continue
            shutil.copyfile(path, target)
            durable.sync(target)
            done += path.stat().st_size
            progress(done >> 20, max(total >> 20, 1))
        _check_layout(source, whole, source.name)

    return _made(source, build, left_out)


def register(folder: Path) -> None:
    """Give a folder to DVC, so that `dvc push` and `dvc pull` carry it.

    Raises:
        ValueError: DVC refuses; its message is printed.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", "add", str(folder)], check=False)
    if done.returncode:
        raise ValueError(
            f"{folder} is whole, but DVC could not register it; its message is above; mend that, "
            f"and run `dvc add {folder}`"
        )


def _made(source: Source, build: Callable[[Path, Path], None], left_out: dict[str, int]) -> Fetched:
    """Return the folder of a dataset, made by build(work, whole) unless it is there."""
    target, work = RAW / source.name, PARTIAL / source.name
    with artifacts.lock(target), disk.explained(work):
        # Under the lock: another process may have made it meanwhile
        if target.is_dir():
            return Fetched(target, False)
        if os.path.lexists(target):
            raise ValueError(
                f"{target} is there and is no folder, allowed is a folder or nothing; remove it, "
                "or fetch under another name"
            )
        whole = work / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir(parents=True)
        try:
            build(work, whole)
            os.replace(whole, target)
        finally:
            # Downloaded files lie beside it and stay, so that a failed run is not paid for twice
            shutil.rmtree(whole, ignore_errors=True)
        durable.sync(RAW)
        shutil.rmtree(work)
        return Fetched(target, True, left_out)


def _kept(work: Path, file: File) -> Path:
    return work / "files" / file.place


def _has_digest(file: File) -> bool:
    return bool(file.digest) or records.is_recorded(file.key)


def _obtain(file: File, work: Path, name: str, patience: Patience) -> records.Record:
    """Have the whole, checked file of an address in its place; return its record."""
    path, is_checked = _kept(work, file), _has_digest(file)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        progress = reporter(f"fetch {name}: {file.name} (MB)")
        download(file.url, path, is_checked=is_checked, progress=progress, patience=patience)
    try:
        return records.check(path, file.key, file.digest)
    except records.AnotherFile:
        path.unlink()
        raise


@contextlib.contextmanager
def _asked_again(files: Sequence[File], work: Path) -> Iterator[None]:
    """Remove files without a known digest when what they hold is refused: the server may have
    answered with something else.
    """
    try:
        yield
    except ValueError as error:
        removed = [file for file in files if not _has_digest(file)]
        if not removed:
            raise
        for file in removed:
            _kept(work, file).unlink()
        names = ", ".join(file.name for file in removed)
        raise ValueError(
            f"{error}; no digest of {names} is known, so what came is removed, and the next run "
            "asks the server again"
        ) from error


def _check_layout(source: Source, folder: Path, where: str) -> None:
    missing = [pattern for pattern in source.layout if not any(folder.glob(pattern))]
    if missing:
        there = ", ".join(sorted(os.listdir(folder))[:10])
        raise ValueError(
            f"{where}: lacks {', '.join(missing)}; received {there or 'nothing'}, needed are "
            f"{', '.join(source.layout)}; rename or add them"
        )


def _files(folder: Path, layout: tuple[str, ...], left_out: dict[str, int]) -> Iterator[Path]:
    """Yield the files of a layout, or all that are not hidden; count those in `left_out`, and
    refuse what no copy can hold.
    """
    tops = [path for pattern in layout for path in folder.glob(pattern)] or [folder]
    for top in dict.fromkeys(tops):
        if top.is_file():
            yield top
            continue
        for place, folders, names in os.walk(top):
            _leave_out([name for name in names if _is_hidden(name)], "hidden file", left_out)
            hidden = [name for name in folders if _is_hidden(name)]
            _leave_out(hidden, "hidden folder with all that is in it", left_out)
            # In place: `os.walk` does not enter what is removed from this list
            folders[:] = [name for name in folders if not _is_hidden(name)]
            for name in (*folders, *names):
                if _is_hidden(name):
                    continue
                path = Path(place, name)
                if path.is_dir() and not path.is_symlink():
                    continue
                if not path.is_file():
                    raise ValueError(
                        f"--from-dir: {path} is a link to a folder or to nothing, a pipe or a "
                        "device; allowed are files and folders; remove it, or name its target"
                    )
                yield path


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _leave_out(names: list[str], reason: str, left_out: dict[str, int]) -> None:
    if names:
        left_out[reason] = left_out.get(reason, 0) + len(names)


def _check_room(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"too little disk space for {folder}: {needed:,} bytes are needed, {free:,} are free; "
            "free some, or use --link in place of --copy"
        )
