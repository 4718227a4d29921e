"""`manifest.json`: what an artifact was made from, and the digest of each of its files.

It is read and written here alone. Version 2 carries a digest of its own: a byte that was flipped or
edited anywhere in the file is seen. Version 1 has none and is still read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from tasks.core.foundations import durable

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
_READ = (1, FORMAT_VERSION)
_OWN = "own_digest"


@with_config(ConfigDict(strict=True))
class Git(TypedDict):
    """The state of the repository that made an artifact; unknown outside of one."""

    commit: str | None
    is_dirty: bool | None


@with_config(ConfigDict(extra="allow", strict=True))
class Facts(TypedDict, total=False):
    """What stages say about an artifact. Those that others read are typed; more are allowed."""

    git: Git
    versions: dict[str, str | None]
    machine: str
    seconds: float
    device: str
    num_images: dict[str, int]
    out_dim: int
    peak_bytes: int
    peak_card_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        modules: the digest of each module behind `code`; older manifests have none.
        because: why this artifact replaced another one, None for the first in its place.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    key: str
    stage: str
    params: dict[str, Any]
    inputs: dict[str, str]
    code: str
    files: dict[str, str]
    facts: Facts = field(default_factory=Facts)
    format_version: int = FORMAT_VERSION
    accepted_code: str | None = None
    modules: dict[str, str] = field(default_factory=dict)
    because: str | None = None

    @property
    def digest(self) -> str:
        """Digest of the names and digests of the files; times and other facts do not count."""
        return canonical_digest(self.files)


_FIELDS = TypeAdapter(Manifest)


class DamagedArtifact(ValueError):
    """An artifact folder is there but its manifest does not verify."""


def canonical_digest(value: Any) -> str:
    """Return the sha256 of `value` as sorted, compact JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def read(folder: Path, *needed: str) -> Manifest:
    """Return the manifest of `folder`; the files beside it are not looked at.

    Args:
        needed: facts that the caller reads.

    Raises:
        DamagedArtifact: there is none, it was changed after it was written, it has another type
            somewhere, or it lacks a needed fact.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise DamagedArtifact(f"{folder}: {MANIFEST} is missing or unreadable ({error})") from error
    manifest = parse(data, str(folder))
    lacking = [name for name in needed if name not in manifest.facts]
    if lacking:
        raise DamagedArtifact(f"{folder}: {MANIFEST} has no {', '.join(lacking)} among its facts")
    return manifest


def parse(data: bytes, where: str) -> Manifest:
    """Return the manifest with the file content `data`; `where` opens the message.

    Raises:
        DamagedArtifact: it is none, or was changed after it was written.
    """
    try:
        text = data.decode("ascii")
        manifest = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise DamagedArtifact(f"{where}: {MANIFEST} is missing or unreadable ({error})") from error
    if manifest.format_version == FORMAT_VERSION and text != _text(manifest):
        raise DamagedArtifact(f"{where}: {MANIFEST} does not match its own digest")
    return manifest


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of `folder`; a kill at any moment leaves the old or the new one."""
    durable.write_text(folder / MANIFEST, _text(manifest))


def _parsed(text: str) -> Manifest:
    """Raise ValueError where the text is no manifest."""
    fields = json.loads(text)
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if version not in _READ:
        raise ValueError(f"format version {version!r}, this program reads {_READ}")
    # `parse` checks it with all other bytes, when it compares the whole text
    if version == FORMAT_VERSION:
        fields.pop(_OWN, None)
    try:
        # From JSON: the strict form of a dataclass takes no dictionary from Python
        manifest = _FIELDS.validate_json(json.dumps(fields))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}, received {first['input']!r:.60}") from error
    # Names come from a file: none may lead to a file outside of the folder
    for name in manifest.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"files: received {name!r}, allowed are names inside the folder")
    return manifest


def _text(manifest: Manifest) -> str:
    """The text of a manifest. It follows from the values, so that each byte can be checked."""
    # Names as JSON has them, before they are sorted: 20 < 100, but "100" < "20"
    fields = json.loads(json.dumps(asdict(manifest)))
    fields[_OWN] = canonical_digest(fields)
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"
