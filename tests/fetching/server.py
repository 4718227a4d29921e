"""A real HTTP server on 127.0.0.1 that serves one file, and does with it what servers do."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """How a file is served.

    Attributes:
        data: the bytes of the file.
        tag, modified: its version; nothing is said where they are empty.
        has_ranges: whether a part may be asked for.
        breaks: after how many bytes of an answer the connection ends, one for each answer.
        stalls: after how many bytes of an answer nothing more comes, one for each answer.
        location: where a redirect leads, nothing for the same place.
        codes: answers without a file, before the others.
        stated: the length that is said, nothing where it is empty, None for the right one.
        range_from: where an answer of a part says that it begins, None for the right place.
        is_blind: a part is given whatever version was asked for.
        headers: more of them.
        seconds: pause before each block of 16 kB.
    """

    data: bytes
    tag: str = '"one"'
    modified: str = ""
    has_ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    location: str = ""
    stated: str | None = None
    range_from: int | None = None
    is_blind: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    asked: list[tuple[str, str]] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Serve until the block ends; give the address of the server."""

    class Handler(_Handler):
        how = behaviour

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        behaviour.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    how: Behaviour
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        how = self.how
        how.asked.append((self.headers.get("Range", ""), self.headers.get("If-Range", "")))
        if how.codes:
            self._head(how.codes.pop(0), 0)
            return
        begin = self._asked_from()
        if begin >= len(how.data) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(how.data)}")
            self._end(0)
            return
        body = how.data[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            first = begin if how.range_from is None else how.range_from
            last = len(how.data) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(how.data)}")
        self._end(len(body))
        self._send(body)

    def _asked_from(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not match or not self.how.has_ranges:
            return 0
        version = self.headers.get("If-Range")
        known = version is None or self.how.is_blind
        if not known and version not in (self.how.tag, self.how.modified):
            return 0
        return int(match[1])

    def _head(self, code: int, length: int) -> None:
        self.send_response(code)
        if code in (301, 302):
            self.send_header("Location", self.how.location or self.path)
        self._end(length)

    def _end(self, length: int) -> None:
        how = self.how
        stated = str(length) if how.stated is None else how.stated
        if stated:
            self.send_header("Content-Length", stated)
        else:
            self.close_connection = True
        for name, value in {"ETag": how.tag, "Last-Modified": how.modified, **how.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _send(self, body: bytes) -> None:
        how = self.how
        stop = how.breaks.pop(0) if how.breaks else len(body)
        stall = how.stalls.pop(0) if how.stalls else len(body)
        try:
            for place in range(0, min(stop, stall), 1 << 14):
                time.sleep(how.seconds)
                self.wfile.write(body[place : min(place + (1 << 14), stop, stall)])
            self.wfile.flush()
            if stall < len(body):
                how.is_over.wait(5)
        except OSError:  # who asked has gone
            pass
        if stop < len(body) or stall < len(body):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""
