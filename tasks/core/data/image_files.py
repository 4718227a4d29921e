"""The raw pictures of a dataset where they lie: in folders or in uncompressed tars, which are read
in place.

A tar is indexed once (member name, offset, length); a picture is then one seek and one read.
"""

from __future__ import annotations

import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from tasks.core.data.annotations import Annotation, check_name
from tasks.core.data.images import open_image
from tasks.core.foundations.records import ImageCaptions


@dataclass(frozen=True)
class StoredFile:
    """A byte range that holds one picture.

    Attributes:
        name: relative path of the picture: from the dataset folder, or from the top of its tar.
        container: the picture's own file, or its tar.
        offset, num_bytes: the range inside `container`, bytes.
    """

    name: str
    container: Path
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class StoredImage:
    """Opens a picture when called: the `load` of an `ImageCaptions`.

    Attributes:
        file: where the bytes are.
        where: the annotation ("<file>: <field>") that asked for the picture.
    """

    file: StoredFile
    where: str

    def __call__(self) -> Image.Image:
        """Return the picture, header read, pixels not decoded, in the mode of its file.

        Raises:
            FileNotFoundError: the file has gone since it was indexed.
            ValueError: it is not an image, or shorter than indexed.
        """
        try:
            with self.file.container.open("rb") as handle:
                handle.seek(self.file.offset)
                data = handle.read(self.file.num_bytes)
        except OSError as error:
            raise FileNotFoundError(
                f"{self}: cannot be read ({error.strerror}); put the file back or remove its "
                "annotation"
            ) from error
        return open_image(data, str(self))

    def __str__(self) -> str:
        is_member = self.file.container.name.endswith(".tar")
        return (
            f"{self.file.container}{f' member {self.file.name}' if is_member else ''} "
            f"({self.where})"
        )


def attach_images(
    annotations: Sequence[Annotation], root: str, patterns: Sequence[str]
) -> Iterator[ImageCaptions]:
    """Find the picture of every annotation, then yield the examples in the order of `annotations`.

    A name belongs to a file when they are equal, or when one ends with the other at a `/`. So
    `train2014/a.jpg` is found as `images/train2014/a.jpg` in a folder and as `a.jpg` in a tar.

    Args:
        root: the dataset folder.
        patterns: names or globs of folders and tars inside `root`.

    Raises:
        FileNotFoundError: a pattern matches nothing, or pictures are missing (with their number and
            the first).
        ValueError: a name leaves the folder or belongs to several files, or two names share a file.
    """
    index = _index(Path(root), patterns)
    found: list[StoredFile] = []
    claims: dict[StoredFile, Annotation] = {}
    missing: list[Annotation] = []
    for annotation in annotations:
        file = _find(index, annotation)
        if file is None:
            missing.append(annotation)
        else:
            found.append(file)
            claim = claims.setdefault(file, annotation)
            if claim.name != annotation.name:
                raise ValueError(
                    f"{annotation.where}: image {annotation.name!r} and image {claim.name!r} "
                    f"({claim.where}) are both {file.name} of "
                    f"{file.container}; allowed is one name for a file; narrow `images` of the "
                    "dataset in params.yaml or repair the names"
                )
    if missing:
        raise FileNotFoundError(
            f"{missing[0].where}: image {missing[0].name!r} is missing in {', '.join(patterns)} "
            f"of {root} "
            f"({len(missing)} of {len(annotations)} are); add the files or change `images` of "
            "the dataset in params.yaml"
        )
    for annotation, file in zip(annotations, found, strict=True):
        yield ImageCaptions(
            annotation.name,
            annotation.split,
            annotation.captions,
            StoredImage(file, annotation.where),
        )


def content_digests(
    root: str, patterns: Sequence[str], digest_of: Callable[[Path], str]
) -> list[tuple[str, str]]:
    """Return (name relative to `root`, digest of the content) of every picture file and tar,
    sorted.
    """
    return sorted(
        (path.relative_to(root).as_posix(), digest_of(path))
        for path in _containers(Path(root), patterns)
    )


def _containers(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the tars and single files that the patterns name, folders unfolded, each once."""
    if not patterns:
        raise ValueError(
            "`images` of the dataset is empty; name at least one folder or tar inside its `path` "
            "in params.yaml"
        )
    paths: dict[Path, None] = {}
    for pattern in patterns:
        parts = PurePosixPath(pattern).parts
        if PurePosixPath(pattern).is_absolute() or ".." in parts:
            raise ValueError(
                f"`images` of the dataset has {pattern!r}, allowed are folders and tars inside "
                f"{root}; change it in params.yaml"
            )
        matches = sorted(root.glob(pattern)) if parts else [root]
        if not matches:
            present = ", ".join(sorted(item.name for item in root.iterdir())[:10]) or "nothing"
            raise FileNotFoundError(
                f"`images` of the dataset has {pattern!r}, which matches nothing in {root}; "
                f"the folder holds {present}; change it in params.yaml"
            )
        for match in matches:
            if match.is_dir():
                paths.update(
                    {
                        Path(folder, name): None
                        for folder, _, names in os.walk(match)
                        for name in names
                    }
                )
            else:
                paths[match] = None
    return list(paths)


def _index(root: Path, patterns: Sequence[str]) -> dict[str, list[StoredFile]]:
    """Return the files by their last path component."""
    index: dict[str, list[StoredFile]] = defaultdict(list)
    for path in _containers(root, patterns):
        files = (
            _members(path)
            if path.name.endswith((".tar", ".tar.gz", ".tgz"))
            else [_single(path, root)]
        )
        for file in files:
            index[PurePosixPath(file.name).name].append(file)
    return index


def _single(path: Path, root: Path) -> StoredFile:
    return StoredFile(path.relative_to(root).as_posix(), path, 0, path.stat().st_size)


def _members(path: Path) -> list[StoredFile]:
    try:
        with tarfile.open(path, "r:") as archive:
            plain = [member for member in archive if member.isreg() and not member.issparse()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(
            f"{path}: not a whole, uncompressed tar ({error}); unpack a .tar.gz to .tar, or get "
            "the file again"
        ) from error
    return [
        StoredFile(member.name.removeprefix("./"), path, member.offset_data, member.size)
        for member in plain
    ]


def _find(index: dict[str, list[StoredFile]], annotation: Annotation) -> StoredFile | None:
    name = PurePosixPath(check_name(annotation.name, annotation.where)).as_posix()
    same_name = index.get(PurePosixPath(name).name, [])
    matches = [file for file in same_name if file.name == name]
    if not matches:
        matches = [
            file
            for file in same_name
            if f"/{file.name}".endswith(f"/{name}") or f"/{name}".endswith(f"/{file.name}")
        ]
    if len(matches) > 1:
        places = ", ".join(str(StoredImage(file, "candidate")) for file in matches[:3])
        raise ValueError(
            f"{annotation.where}: image {annotation.name!r} belongs to {len(matches)} files "
            f"({places}); narrow `images` of the dataset "
            "in params.yaml or remove the copies"
        )
    return matches[0] if matches else None
