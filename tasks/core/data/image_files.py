"""Finds the raw pictures of a dataset and reads them in place, from folders or uncompressed tars.

A tar is indexed once (member name, offset, length). A picture then costs one seek and one read.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from tasks.core.data.annotations import Annotation, check_name, compared, nearest
from tasks.core.data.file_kinds import kind_of_file
from tasks.core.data.images import open_image
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.data.split_files import matches, no_match
from tasks.core.data.tars import read_tar, tar_digest
from tasks.core.foundations.records import ImageCaptions

# Largest picture that is read, bytes: a sparse file of a few bytes may state any size.
_MAX_BYTES = 1 << 29
_TARS = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
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
        """Return the picture in the mode of its file. Its header is read, its pixels not yet.

        Raises:
            Unusable: the file cannot be read, is too large, or not an image.
        """
        if self.file.num_bytes > _MAX_BYTES:
            raise Unusable(
                str(self),
                "picture file too large",
                f"the file has {self.file.num_bytes:,} bytes, allowed are {_MAX_BYTES:,}; "
                "write it again",
            )
        try:
            with self.file.container.open("rb") as handle:
                handle.seek(self.file.offset)
                data = handle.read(self.file.num_bytes)
        except OSError as error:
            raise Unusable(
                str(self),
                "picture that cannot be read",
                f"cannot be read ({error.strerror}); put the file back or remove its annotation",
            ) from error
        return open_image(data, str(self))

    def __str__(self) -> str:
        is_member = self.file.container.name.endswith(".tar")
        return (
            f"{self.file.container}{f' member {self.file.name}' if is_member else ''} "
            f"({self.where})"
        )


def attach_images(
    annotations: Sequence[Annotation], root: str, patterns: Sequence[str], left_out: LeftOut
) -> Iterator[ImageCaptions]:
    """Find the picture of every annotation, then yield the examples in the order of `annotations`.

    A name means a file when they are equal, or when one ends with the other at a `/`. So
    `train2014/a.jpg` is found as `images/train2014/a.jpg` in a folder and as `a.jpg` in a tar.
    Names are compared as `compared` writes them.

    Args:
        root: the dataset folder.
        patterns: names or globs of folders and tars inside `root`.
        left_out: takes the annotations without a picture of their own, and counts the files that
            no annotation names.

    Raises:
        FileNotFoundError, ValueError: a pattern matches nothing, or a tar is damaged.
    """
    index = _index(Path(root), patterns, left_out)
    names = sorted(index, key=str.casefold)
    place = f"{', '.join(patterns)} of {root}"
    found: list[tuple[Annotation, StoredFile]] = []
    claims: dict[StoredFile, Annotation] = {}
    seen: dict[str, tuple[str, str]] = {}
    for annotation in annotations:
        with left_out.catching():
            file = _find(index, names, annotation, place)
            _claim(claims, file, annotation)
            check_one_split(seen, file, annotation.split, annotation.where)
            found.append((annotation, file))
    # Only after the last annotation it is known which files none of them names
    for files in index.values():
        for file in files:
            if file not in claims:
                left_out.mention("picture file of no entry that is used", file.name)
    for annotation, file in found:
        yield ImageCaptions(
            annotation.name,
            annotation.split,
            annotation.captions,
            StoredImage(file, annotation.where),
        )


def check_one_split(
    seen: dict[str, tuple[str, str]], file: StoredFile, split: str, where: str
) -> None:
    """Raise Unusable when a link to a file or folder puts a picture into a second split.

    Args:
        seen: split and place of the files so far, by their path without links; added to in place.
    """
    # A member of a tar has no path of its own, so no link can lead to it
    if file.container.name.endswith(".tar"):
        return
    path = os.path.realpath(file.container)
    first, place = seen.setdefault(path, (split, where))
    if first != split:
        raise Unusable(
            where,
            "picture in several splits",
            f"received {file.name} in {split}, but it is the file {path}, which {place} has in "
            f"{first}; allowed is one split for a picture; remove the link or one of the two",
        )


def content_digests(
    root: str, patterns: Sequence[str], digest_of: Callable[[Path], str]
) -> list[tuple[str, str]]:
    """Return (name relative to `root`, digest of the content) for each picture file and tar,
    sorted.
    """
    digests = []
    for path in _containers(Path(root), patterns):
        if path.is_file():
            digests.append((path.relative_to(root).as_posix(), content_digest(path, digest_of)))
    return sorted(digests)


def content_digest(path: Path, digest_of: Callable[[Path], str]) -> str:
    """Return the digest of the content of a file, or the size of one too large to be used."""
    if path.name.endswith(_TARS):
        return tar_digest(path, digest_of)
    num_bytes = path.stat().st_size
    return digest_of(path) if num_bytes <= _MAX_BYTES else f"{num_bytes} bytes"


def _containers(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files that the patterns name, and everything inside the folders that they name,
    each once. Named pipes, devices and broken links are among them.
    """
    if not patterns:
        raise ValueError(
            "`images` of the dataset is empty; name at least one folder or tar inside its `path` "
            "in params.yaml"
        )
    paths: dict[Path, None] = {}
    for pattern in patterns:
        found = matches(root, pattern, "images", "folders and tars")
        if not found:
            raise no_match(root, pattern, "images", "nothing")
        for match in found:
            if match.is_dir():
                paths.update(dict.fromkeys(unfolded(match)))
            else:
                _check_container(match)
                paths[match] = None
    return list(paths)


def _check_container(path: Path) -> None:
    """Refuse what `images` names if it is a packed archive or no regular file.

    A compressed tar passes: it is refused when it is read, by a message of its own.
    """
    kind = "; it is no regular file" if not path.is_file() else kind_of_file(path)
    if not path.is_file() or ("unpack" in kind and not path.name.endswith(_TARS)):
        raise ValueError(
            f"{path}: no folder, tar or picture{kind}; change `images` of the dataset in "
            "params.yaml"
        )


def unfolded(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is no folder itself, in the same order on any file
    system.

    Each folder is visited once, so that a link upwards does not loop. Linked folders come last: a
    file then keeps its own path, if it has one below the folder.
    """
    seen: set[str] = set()
    waiting = deque([folder])
    while waiting:
        for place, folders, names in os.walk(waiting.popleft()):
            if os.path.realpath(place) in seen:
                folders.clear()
                continue
            seen.add(os.path.realpath(place))
            folders.sort()
            for name in folders:
                if os.path.islink(os.path.join(place, name)):
                    waiting.append(Path(place, name))
            for name in sorted(names):
                yield Path(place, name)


def _index(root: Path, patterns: Sequence[str], left_out: LeftOut) -> dict[str, list[StoredFile]]:
    """Return the files by the last component of their names, as `compared` writes it."""
    # The last component is equal in all spellings of a path, and makes a search one look-up
    index: dict[str, list[StoredFile]] = defaultdict(list)
    for path in _containers(root, patterns):
        if not path.is_file():
            left_out.mention("named pipe, device or broken link among the pictures", str(path))
            continue
        files = [StoredFile(path.relative_to(root).as_posix(), path, 0, path.stat().st_size)]
        if path.name.endswith(_TARS):
            files = _members(path, left_out)
        for file in files:
            index[PurePosixPath(compared(file.name)).name].append(file)
    return index


def _members(path: Path, left_out: LeftOut) -> list[StoredFile]:
    archive = read_tar(path)
    if archive.doubt:
        left_out.mention(archive.doubt, str(path))
    files = []
    for member in archive.members:
        if member.is_file:
            files.append(
                StoredFile(member.name.removeprefix("./"), path, member.offset, member.num_bytes)
            )
        else:
            left_out.mention("link, device or sparse file in a tar", f"{path}: {member.name}")
    return files


def _find(
    index: dict[str, list[StoredFile]], names: Sequence[str], annotation: Annotation, place: str
) -> StoredFile:
    name = compared(check_name(annotation.name, annotation.where))
    same_name = index.get(PurePosixPath(name).name, [])
    # From the strictest rule to the loosest: a file of exactly this name wins over similar ones
    found = [file for file in same_name if file.name == annotation.name]
    found = found or [file for file in same_name if compared(file.name) == name]
    found = found or [file for file in same_name if _is_end(file.name, annotation.name)]
    found = found or [file for file in same_name if _is_end(compared(file.name), name)]
    if not found:
        raise Unusable(
            annotation.where,
            "missing picture",
            f"image {annotation.name!r} is missing in {place}{nearest(name, names)}; add the "
            "file or change `images` of the dataset in params.yaml",
        )
    if len(found) > 1:
        places = ", ".join(map(str, (found[0].container, found[1].container)))
        raise Unusable(
            annotation.where,
            "name of several files",
            f"image {annotation.name!r} belongs to {len(found)} files ({places}); narrow "
            "`images` of the dataset in params.yaml or remove the copies",
        )
    return found[0]


def _is_end(one: str, other: str) -> bool:
    """Return whether one name ends with the other, at a `/`."""
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")


def _claim(claims: dict[StoredFile, Annotation], file: StoredFile, annotation: Annotation) -> None:
    # A name twice is refused in `preparation.py`; here two names found the same file
    claim = claims.setdefault(file, annotation)
    if claim.name != annotation.name:
        raise Unusable(
            annotation.where,
            "two names of one file",
            f"image {annotation.name!r} and image {claim.name!r} ({claim.where}) are both "
            f"{file.name} of {file.container}; allowed is one name for a file; narrow `images` "
            "of the dataset in params.yaml or repair the names",
        )
