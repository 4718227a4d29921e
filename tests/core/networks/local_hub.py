"""A model hub on 127.0.0.1: folders served at the addresses that `huggingface_hub` asks for files
and lists of files.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Answers from `root/<repository>/<file>` and notes in `sent` what was fetched."""

    root: Path
    sent: list[str]

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        repository, found, inner = path.partition("/resolve/")
        if found:
            self._file(f"{repository}/{inner.partition('/')[2]}")
        elif path.startswith("api/models/"):
            self._listing(path.removeprefix("api/models/"))
        else:
            self._send(404, b"{}", {})

    def _file(self, name: str) -> None:
        file = self.root / name
        if not file.is_file():
            self._send(
                404,
                b"{}",
                {"X-Error-Code": "EntryNotFound" if file.parent.is_dir() else "RepoNotFound"},
            )
            return
        data = file.read_bytes()
        if self.command == "GET":
            self.sent.append(name)
        self._send(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def _listing(self, path: str) -> None:
        repository, is_tree, rest = path.partition("/tree/")
        repository = repository.partition("/revision/")[0]
        folder = self.root / repository
        if not folder.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        files = sorted(file for file in folder.iterdir() if file.is_file())
        body: object = {
            "id": repository,
            "sha": COMMIT,
            "siblings": [{"rfilename": file.name} for file in files],
        }
        if is_tree:
            is_inner = "/" in rest.strip("/")
            entries = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT}
                for file in files
            ]
            body = [] if is_inner else entries
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `root/<repository>/<file>`; yields the address and the list of files that were sent so
    far.
    """
    sent: list[str] = []
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Bound", (Handler,), {"root": root, "sent": sent})
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        server.server_close()
