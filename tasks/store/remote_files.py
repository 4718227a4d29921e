"""What lies in a store, file by file: `<stage>/<recipe>/<key>/`, on any file system of fsspec.

A file is named by its sha256, and `manifest.json` comes last. Writers of one key therefore write
the same files, or files beside each other, and the last manifest names a whole artifact. A recipe
is the part of a key without inputs: a machine without the raw data can ask for all artifacts of a
recipe. See infra/adr/0009.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.core.foundations import durable
from tasks.store import disk, manifests
from tasks.store.artifacts import Key
from tasks.store.manifests import MANIFEST, DamagedArtifact, Manifest, canonical_digest
from tasks.store.patience import Pulse

Entries = dict[str, dict[str, Any]]
MAX_MANIFEST_BYTES = 2**24  # a store is not ours alone: larger ones are not read
MAX_NAME_BYTES = 255  # of a name on most disks
CHUNK_BYTES = 2**20  # moved at once; progress is told after each
SYNCED_CHUNKS = 64  # between two syncs to a mounted share
BLOCK_BYTES = 2**23  # of a request
MAX_PARTS = 5000  # requests of one file; S3 takes twice as many
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Address:
    """Where an artifact lies in a store."""

    stage: str
    recipe: str
    key: str

    @classmethod
    def of(cls, key: Key, digest: str | None = None) -> Address:
        """Return the address of a key.

        Args:
            digest: of the whole key, where `key` lacks inputs.
        """
        recipe = json.loads(json.dumps([key.params, key.code]))  # no tuples, as a manifest has it
        return cls(key.stage, canonical_digest(recipe), digest or key.digest)

    def __str__(self) -> str:
        return f"{self.stage}/{self.recipe}/{self.key}"


@dataclass(frozen=True)
class Files:
    """An opened store. A `Pulse` is told of all that moves.

    Attributes:
        system, root: what fsspec gives for an address.
        shown: the address, for messages.
    """

    system: Any
    root: str
    is_local: bool
    shown: str

    def offered(self, address: Address, pulse: Pulse) -> list[Manifest]:
        """Return the manifests of a recipe, but for damaged ones."""
        found = []
        recipe = f"{address.stage}/{address.recipe}"
        for name, entry in self._entries(recipe, pulse).items():
            # Other names are none of ours, such as what a mounted share adds
            if entry["type"] != "directory" or not _DIGEST.fullmatch(name):
                continue
            one = Address(address.stage, address.recipe, name)
            try:
                read = self._manifest(one, self._entries(str(one), pulse), pulse)
            except DamagedArtifact:
                continue
            if read:
                found.append(read[0])
        return found

    def fetch(self, address: Address, place: Path, pulse: Pulse) -> Manifest | None:
        """Copy an artifact into `place`, see `Remote.fetch`."""
        entries = self._entries(str(address), pulse)
        read = self._manifest(address, entries, pulse)
        if read is None:
            return None
        (manifest, text), where = read, f"{self.shown}/{address}"
        _check_names(manifest, where)
        sizes = {name: _size(entries, manifest, name, where) for name in manifest.files}
        pulse.total = sum(sizes.values())
        # What an earlier try of this artifact brought
        there = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
        if not set(there) <= {*manifest.files, MANIFEST}:
            shutil.rmtree(place)  # an earlier try found another content
            there = {}
        with disk.explained(place):
            place.mkdir(parents=True, exist_ok=True)
            held = sum(path.stat().st_size for path in there.values())
            disk.check_space(place, pulse.total - held)
        for name, digest in manifest.files.items():
            target = place / name
            if _is_there(target, sizes[name], digest, pulse):
                continue
            with disk.explained(place):
                target.parent.mkdir(parents=True, exist_ok=True)
            if self._download(f"{address}/{digest}", target, sizes[name], pulse) != digest:
                raise DamagedArtifact(
                    f"{where}: file {name} does not match its sha256 in {MANIFEST}"
                )
        with disk.explained(place):
            (place / MANIFEST).write_bytes(text)
        return manifest

    def send(
        self,
        address: Address,
        folder: Path,
        manifest: Manifest,
        is_replaced: bool,
        pulse: Pulse,
    ) -> bool:
        """Copy an artifact to the store, see `Remote.send`."""
        entries = self._entries(str(address), pulse)
        if MANIFEST in entries and not is_replaced:
            return False
        # By content: two names of a manifest may hold the same
        paths = {digest: folder / name for name, digest in manifest.files.items()}
        pulse.total = sum(path.stat().st_size for path in paths.values())
        self._make_folder(str(address))
        for digest, path in paths.items():
            size, there = path.stat().st_size, entries.get(digest)
            if there and there["type"] != "file":
                raise DamagedArtifact(
                    f"{self.shown}/{address}/{digest} is no file; remove it from the store"
                )
            if there and there.get("size") == size and not is_replaced:
                pulse.beat(size)
            elif self._upload(path, f"{address}/{digest}", size, pulse) != digest:
                raise DamagedArtifact(f"{path}: changed while it was sent")
        # The manifest last: until then the folder counts as empty for every reader
        data = (folder / MANIFEST).read_bytes()
        if self.is_local:
            durable.write_text(Path(self._path(str(address)), MANIFEST), data.decode("ascii"))
        else:
            self.system.pipe_file(self._path(f"{address}/{MANIFEST}"), data)
        return True

    def _path(self, place: str) -> str:
        """Return the path of what lies below the root."""
        path = f"{self.root.rstrip('/')}/{place}"
        if self.is_local and not Path(path).resolve().is_relative_to(Path(self.root).resolve()):
            raise DamagedArtifact(f"{self.shown}/{place}: a link leads out of the store")
        return path

    def _entries(self, place: str, pulse: Pulse) -> Entries:
        """Return what lies in a folder, by name; nothing where there is none."""
        # A share that is not mounted is no empty store
        if self.is_local and not Path(self.root).is_dir():
            raise FileNotFoundError(f"there is no folder {self.shown}")
        self.system.invalidate_cache()
        try:
            found = self.system.ls(self._path(place), detail=True)
        except FileNotFoundError:
            found = []
        pulse.beat()
        return {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in found}

    def _manifest(
        self, address: Address, entries: Entries, pulse: Pulse
    ) -> tuple[Manifest, bytes] | None:
        """Return the manifest of a key with its text, None where there is none."""
        if MANIFEST not in entries:
            return None
        where = f"{self.shown}/{address}"
        if entries[MANIFEST]["type"] != "file":
            raise DamagedArtifact(f"{where}: {MANIFEST} is no file")
        with self.system.open(self._path(f"{address}/{MANIFEST}"), "rb") as source:
            data = source.read(MAX_MANIFEST_BYTES + 1)
        pulse.beat()
        if len(data) > MAX_MANIFEST_BYTES:
            raise DamagedArtifact(f"{where}: {MANIFEST} has more than {MAX_MANIFEST_BYTES} bytes")
        manifest = manifests.parse(data, where)
        if (manifest.stage, manifest.key) != (address.stage, address.key):
            raise DamagedArtifact(f"{where}: {MANIFEST} is of another key")
        return manifest, data

    def _make_folder(self, place: str) -> None:
        from fsspec.asyn import AsyncFileSystem

        # Object stores have no folders: asked for one, they make a bucket
        if not isinstance(self.system, AsyncFileSystem):
            self.system.makedirs(self._path(place), exist_ok=True)

    def _download(self, place: str, target: Path, size: int, pulse: Pulse) -> str:
        """Copy a file from the store, and return its digest."""
        digest, left = hashlib.sha256(), size
        with (
            self.system.open(self._path(place), "rb", block_size=BLOCK_BYTES) as source,
            target.open("wb") as out,
        ):
            # One byte more than is left, so that a file that is too long shows itself
            while chunk := source.read(min(CHUNK_BYTES, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise DamagedArtifact(f"{self.shown}/{place}: longer than the store says")
                digest.update(chunk)
                # Around the write alone: an `OSError` of the store is no error of this disk
                with disk.explained(target.parent):
                    out.write(chunk)
                    out.flush()
                pulse.beat(len(chunk))
        # No `DamagedArtifact`: a connection that broke off is worth another try
        if left:
            raise OSError(f"{self.shown}/{place} ended {left} bytes early")
        return digest.hexdigest()

    def _upload(self, path: Path, place: str, size: int, pulse: Pulse) -> str:
        """Copy a file to the store, and return its digest."""
        from fsspec.spec import AbstractBufferedFile

        digest = hashlib.sha256()
        out = self._writable(self._path(place), size)
        try:
            with path.open("rb") as source:
                for number, chunk in enumerate(iter(lambda: source.read(CHUNK_BYTES), b""), 1):
                    digest.update(chunk)
                    out.write(chunk)
                    # Now and then: a share that writes all at the end would look as if it hangs
                    if self.is_local and number % SYNCED_CHUNKS == 0:
                        _sync(out)
                    pulse.beat(len(chunk))
            if self.is_local:
                # A longer file may have been there before
                out.truncate()
                _sync(out)
        except BaseException:
            if isinstance(out, AbstractBufferedFile):
                out.closed = True  # else what was sent becomes an object when it is closed
                with contextlib.suppress(Exception):
                    out.discard()
            raise
        out.close()
        return digest.hexdigest()

    def _writable(self, path: str, size: int) -> Any:
        if not self.is_local:
            # Larger requests for a huge file: their number is limited
            block = max(BLOCK_BYTES, size // MAX_PARTS)
            return self.system.open(path, "wb", block_size=block)
        # Not emptied first: another writer of the same content must not see its file shrink
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        return os.fdopen(os.open(path, flags, 0o666), "r+b")


def _sync(out: Any) -> None:
    out.flush()
    os.fsync(out.fileno())


def _is_there(target: Path, size: int, digest: str, pulse: Pulse) -> bool:
    """Whether an earlier try brought a file."""
    if not target.is_file() or target.stat().st_size != size:
        return False
    found = hashlib.sha256()
    with target.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            found.update(chunk)
            pulse.beat(len(chunk))
    if found.hexdigest() != digest:
        # Its bytes come again, and would count twice
        pulse.done -= size
        return False
    return True


def _size(entries: Entries, manifest: Manifest, name: str, where: str) -> int:
    """Return the bytes of a file of a manifest, by what the store says."""
    entry = entries.get(manifest.files[name])
    if entry is None:
        raise DamagedArtifact(f"{where}: file {name} is missing")
    size = entry.get("size")
    if entry["type"] != "file" or entry.get("islink") or not isinstance(size, int):
        raise DamagedArtifact(f"{where}: file {name} is no regular file")
    return size


def _check_names(manifest: Manifest, where: str) -> None:
    """Refuse names that no artifact of ours has, and that could reach other files."""
    for name, digest in manifest.files.items():
        parts = PurePosixPath(name).parts
        is_plain = bool(parts) and "/".join(parts) == name and all(map(_is_plain, parts))
        if not is_plain or not _DIGEST.fullmatch(digest):
            raise DamagedArtifact(f"{where}: received the file name {name!r:.60} in {MANIFEST}")
        if any(str(above) in manifest.files for above in PurePosixPath(name).parents):
            raise DamagedArtifact(f"{where}: {name!r:.60} lies in a file of {MANIFEST}")


def _is_plain(part: str) -> bool:
    is_readable = part.isprintable() and "\\" not in part and len(part.encode()) <= MAX_NAME_BYTES
    return is_readable and part[0] != "." and part != MANIFEST
