"""Small artifacts of two checkouts that share a store and nothing else, and a store with faults."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from tasks.progress import reporter
from tasks.store import caching, travel
from tasks.store.artifacts import Key, Ref
from tasks.store.patience import SECONDS
from tasks.store.remote import Remote

FOLDER = Path("data/prepared/toy")
KEY = Key("prepare_data", {"size": (3, 5), "by_budget": {20: 1.0, 100: 2.0}}, {"raw": "r"}, "code")
CONTENT = {"images.bin": bytes(range(256)) * 9001, "tables/rows.json": b"[1, 2]"}


def build(work: Path, content: dict[str, bytes] = CONTENT) -> dict[str, Any]:
    """Write the files of an artifact."""
    for name, data in content.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(data)
    return {}


def never(work: Path) -> dict[str, Any]:
    """Stand for a build where nothing may be built."""
    raise AssertionError(f"{work} is built")


class Checkout:
    """A folder with its own data, that knows a store by its address."""

    def __init__(self, folder: Path, url: object, seconds: float = SECONDS) -> None:
        self.folder, self.url, self.seconds = folder, str(url), seconds
        folder.mkdir(exist_ok=True)

    def obtain(self, make: Callable[[Path], dict[str, Any]], key: Key = KEY, **how: Any) -> Ref:
        """Find, pull or make the artifact of a key, as a run of its own."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with travel.through(Remote(self.url, self.seconds), reporter):
                return caching.obtain(FOLDER, key, make, **how)
        finally:
            os.chdir(before)

    def files(self) -> dict[str, bytes]:
        """Return what the artifact holds, without its manifest."""
        place = self.folder / FOLDER
        return {
            str(path.relative_to(place)): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file() and path.name != "manifest.json"
        }

    def left(self) -> list[Path]:
        """Return what lies in work folders."""
        return [path for path in self.folder.glob("data/.work/**/*") if path.is_file()]


class Faulty(MemoryFileSystem):
    """A store in memory; `before` is called before all that it is asked for, and may fail."""

    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012, as in the class above
    pseudo_dirs = [""]  # noqa: RUF012
    before: Callable[[], None] = staticmethod(lambda: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("faulty://", "memory://")))

    def ls(self, *args: Any, **how: Any) -> Any:
        type(self).before()
        return super().ls(*args, **how)

    def _open(self, *args: Any, **how: Any) -> Any:
        type(self).before()
        return super()._open(*args, **how)


fsspec.register_implementation("faulty", Faulty)
