"""Downloads one address to one whole file: what came is kept, and the next try or run goes on where
it broke off.

A file has its own name only when it is whole; before, its bytes are in `<name>.part`. A download
goes on from them when the server says that the file is still the same: `If-Range` with the ETag or
date that it gave. It also goes on when a digest of the whole file will be compared. Otherwise it
begins again. Neither pooch nor fsspec goes on from a partial file, so this is written on requests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import requests

from tasks.core.foundations import durable
from tasks.fetching.sources import shown

# What is read at once: bytes of a block that breaks off are lost.
_BLOCK = 1 << 16
# Largest file of an address that states no length, bytes.
_MAX_BYTES = 1 << 40
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_QUERY = re.compile(r"\?\S+")
_USER = re.compile(r"//\S*@")
# Codes that may be gone when asked again; others will not.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_OK, _PARTIAL, _BEYOND = 200, 206, 416


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        num_tries: tries in a row that bring nothing new.
        pause_seconds: before the second try, doubled before each further one.
    """

    connect_seconds: float = 20.0
    read_seconds: float = 60.0
    num_tries: int = 5
    pause_seconds: float = 2.0


class _Broken(Exception):
    """A try that another one may mend."""


@dataclass
class _Download:
    """One address, its partial file, and a note that says which version the partial file is of."""

    url: str
    part: Path
    is_checked: bool
    progress: Callable[[int, int], None]

    @property
    def note(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    @property
    def num_bytes(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def version(self) -> str | None:
        """Return what `If-Range` takes; "" to go on without it, since a digest will be compared;
        None to begin again.
        """
        try:
            note = json.loads(self.note.read_text())
            version = note["version"] if note["url"] == shown(self.url) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return version if version or self.is_checked else None

    def begin(self, version: str) -> None:
        """Empty the partial file, and note the version that it is about to get."""
        self.part.write_bytes(b"")
        durable.write_text(self.note, json.dumps({"url": shown(self.url), "version": version}))


def download(
    url: str,
    target: Path,
    *,
    is_checked: bool,
    progress: Callable[[int, int], None],
    patience: Patience,
) -> None:
    """Write the file of an address to `target`, whole or not at all.

    Args:
        is_checked: a digest of the whole file will be compared, so parts of two versions are seen.
        progress: called as progress(done, total) in MB; the total is 1 more while it is unknown.

    Raises:
        ValueError: the server refuses, or sends something else than a file.
        OSError: nobody answers, the file breaks off `num_tries` times, or the disk is too small.
    """
    what = _Download(url, target.with_name(f"{target.name}.part"), is_checked, progress)
    furthest, failures, problem = what.num_bytes, 0, "nothing came"
    with requests.Session() as session:
        while failures < patience.num_tries:
            if failures:
                time.sleep(patience.pause_seconds * 2 ** (failures - 1))
            try:
                _try(what, session, (patience.connect_seconds, patience.read_seconds))
                break
            except _Broken as error:
                problem = str(error)
            # A line that breaks off often still ends, as long as each try brings something
            failures = 0 if what.num_bytes > furthest else failures + 1
            furthest = max(furthest, what.num_bytes)
        else:
            raise OSError(
                f"{shown(url)}: cannot be had, {patience.num_tries} tries brought nothing more "
                f"than {furthest:,} bytes ({problem}); what came is kept, and the same command "
                "goes on; or get the file another way and use --from-dir"
            )
    durable.sync(what.part)
    os.replace(what.part, target)
    what.note.unlink(missing_ok=True)
    durable.sync(target.parent)


def _try(what: _Download, session: requests.Session, timeout: tuple[float, float]) -> None:
    """Ask once, and take what comes.

    Raises:
        _Broken: another try may help.
    """
    # Bytes as stored: with a compressed body the length would not be that of the file
    headers = {"Accept-Encoding": "identity"}
    done, version = what.num_bytes, what.version()
    if done and version is not None:
        headers["Range"] = f"bytes={done}-"
    if done and version:
        headers["If-Range"] = version
    try:
        with _asked(what.url, session, headers=headers, timeout=timeout) as answer:
            total = _begin(what, answer, "Range" in headers)
            if total != what.num_bytes:
                with what.part.open("ab") as handle:
                    _take(what, answer, handle, total)
    # Before `ConnectionError`, which it is a kind of: a bad certificate is as bad at the next try
    except (requests.exceptions.SSLError, requests.exceptions.InvalidSchema) as error:
        raise ValueError(f"{shown(what.url)}: cannot be had ({_told(error)})") from error
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        raise _Broken(_told(error)) from error
    except requests.RequestException as error:
        raise ValueError(f"{shown(what.url)}: cannot be had ({_told(error)})") from error
    if total is not None and what.num_bytes != total:
        raise _Broken(f"broke off at {what.num_bytes:,} of {total:,} bytes")


def _told(error: Exception) -> str:
    """Return what a library says, without user, password and query of an address."""
    text = _USER.sub("//", f"{type(error).__name__}: {error}")
    return _QUERY.sub("?...", text)[:300]


def _asked(url: str, session: requests.Session, **how: Any) -> requests.Response:
    """Return the head of an answer.

    Raises:
        ValueError: the server leads to what is no address; requests lets that pass.
    """
    try:
        return session.get(url, stream=True, **how)
    except requests.RequestException:
        raise
    except ValueError as error:
        raise ValueError(
            f"{shown(url)}: cannot be had, the server leads to what is no address; look at it with "
            "a browser, or get the file another way and use --from-dir"
        ) from error


def _begin(what: _Download, answer: Any, is_asked_for_rest: bool) -> int | None:
    """Read the head of an answer, and bring the partial file to where the answer begins; return
    the bytes of the whole file where it says them.
    """
    code, done = answer.status_code, what.num_bytes
    if code in _PASSING:
        raise _Broken(f"the server answers {code}")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError(
            f"{shown(what.url)}: the server sends it encoded, allowed is the file as it is stored; "
            "get it another way and use --from-dir"
        )
    # The whole file, also where the rest was asked for: the server cannot go on, or the file
    # changed
    if code == _OK:
        what.begin(_version(answer))
        length = answer.headers.get("Content-Length", "")
        return _with_room(what, int(length)) if length.isdigit() else None
    if is_asked_for_rest and code in (_PARTIAL, _BEYOND):
        stated = answer.headers.get("Content-Range", "")
        match = _RANGE.fullmatch(stated)
        # Some servers ignore `If-Range` and send the rest of another version
        is_same = _version(answer) == what.version()
        if code == _PARTIAL and match and int(match[1]) == done and is_same:
            return None if match[3] == "*" else _with_room(what, int(match[3]))
        # Nothing is left: an earlier run was killed before it gave the file its name
        if code == _BEYOND and stated == f"bytes */{done}":
            return done
        # The partial file is of no use: emptied and without a note, the next try asks for all
        what.begin("")
        what.note.unlink()
        raise _Broken(f"asked for the rest from {done:,}, the server answers {code} {stated!r}")
    raise ValueError(
        f"{shown(what.url)}: the server answers {code} {answer.reason}; allowed is 200; look at "
        "the address with a browser, or get the file another way and use --from-dir"
    )


def _version(answer: Any) -> str:
    """Return what the server calls this version of the file; nothing where it has no strong
    name.
    """
    # A weak ETag (W/) stands for files that mean the same, not for equal bytes
    tag = str(answer.headers.get("ETag", ""))
    strong = "" if tag.startswith("W/") else tag
    return strong or str(answer.headers.get("Last-Modified", ""))


def _with_room(what: _Download, total: int) -> int:
    """Return the bytes of the whole file after checking that the rest has room."""
    needed, free = total - what.num_bytes, shutil.disk_usage(what.part.parent).free
    if needed > free:
        raise OSError(
            f"too little disk space for {what.part}: {needed:,} bytes are needed, {free:,} are "
            "free; free some, or get the file another way and use --from-dir DIR --link"
        )
    return total


def _take(what: _Download, answer: Any, handle: BinaryIO, total: int | None) -> None:
    """Append the body."""
    done = what.num_bytes
    limit = _MAX_BYTES if total is None else total
    for block in answer.iter_content(_BLOCK):
        handle.write(block)
        done += len(block)
        if done > limit:
            raise ValueError(
                f"{shown(what.url)}: sends more than the {limit:,} bytes that are allowed; get it "
                "another way and use --from-dir"
            )
        # An unknown total stays 1 MB ahead, so that the bar does not end
        whole = done + (1 << 20) if total is None else total
        what.progress(done >> 20, max(whole >> 20, 1))
