"""Reads plain folders: pictures beside text files of the same name, `a.jpg` beside `a.txt`.

Captions are the lines of `.txt` that are not blank. Without a `.txt` they are `captions` or
`caption` of a `.json`, as in the shards of the reader `webdataset`. Files with the same path up to
the last dot, the key, are one example. Folders may have folders inside. An example has the path and
the splits of its picture.

The output `files` of img2dataset is such a folder. Rows of its tables without a picture are refused
as failed downloads (`download_logs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from tasks.core.data.annotations import check_name, dataset_folder, file_digest, text_digest
from tasks.core.data.download_logs import refuse_failed
from tasks.core.data.file_kinds import NOISE
from tasks.core.data.image_files import (
    StoredFile,
    StoredImage,
    check_one_split,
    content_digest,
    unfolded,
)
from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.data.sample_captions import ENDINGS, MAX_BYTES, captions_of
from tasks.core.data.shares import SharedFiles, check_shares, divided
from tasks.core.data.split_files import matches, no_match, split_digests
from tasks.core.foundations.records import SPLITS, ImageCaptions

_PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_LOG = "parquet"  # ending of the tables of img2dataset


@dataclass(frozen=True, kw_only=True)
class Config(SharedFiles):
    """Where the folders lie, see `SharedFiles`. `train`, `val` and `test` name folders inside
    `path` by globs; `.` is `path` itself.
    """


@dataclass
class _Sample:
    """The files of one key: pictures, and files of captions by ending."""

    pictures: list[Path] = field(default_factory=list)
    texts: dict[str, list[Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """The splits that name each file.

    Attributes:
        splits: splits with a glob that names the file or a folder around it.
        listed: splits with a glob that names the file itself.
    """

    splits: dict[Path, tuple[str, ...]]
    listed: dict[Path, tuple[str, ...]]


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Return the examples sorted by the path of their pictures.

    Args:
        left_out: takes the files that cannot be used, and counts those that no rule reads.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, or a file has several splits.
    """
    found: list[tuple[StoredImage, tuple[str, ...], tuple[str, ...]]] = []
    files = _files(config)
    for key, sample in _samples(files.splits, config.path, left_out).items():
        where = f"{Path(config.path)}: key {key!r}"
        with left_out.catching():
            picture = _picture(sample, where)
            splits = files.splits[picture]
            texts = _texts(sample, where)
            _check_listed(texts.values(), files.listed, splits, where)
            captions = captions_of(_contents(texts, where), [], where, left_out)
            name = check_name(picture.relative_to(config.path).as_posix(), where)
            stored = StoredFile(name, picture, 0, picture.stat().st_size)
            found.append((StoredImage(stored, where), captions, splits))
    # All names are needed before the first split is known: shares divide ranks of names
    named = [(image.file.name, splits) for image, _, splits in found]
    seen: dict[str, tuple[str, str]] = {}
    for (image, captions, _), split in zip(found, divided(named, config.shares), strict=True):
        with left_out.catching():
            check_one_split(seen, image.file, split, image.where)
            yield ImageCaptions(image.file.name, split, captions, image)


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the names, splits and contents of the files that are read. It does not
    depend on `path`.
    """
    named = _files(config).splits
    read = {path: splits for path, splits in named.items() if _is_read(path)}
    digests = split_digests(config.path, read, lambda path: content_digest(path, digest_of))
    return text_digest({"files": digests})


def _files(config: Config) -> _Found:
    """Return everything inside the folders except folders, sorted, with the splits that name it.

    A glob may also name files: tables of img2dataset lie beside their folders.
    """
    root = dataset_folder(config.path)
    splits: dict[Path, tuple[str, ...]] = {}
    listed: dict[Path, tuple[str, ...]] = {}
    for split in SPLITS:
        for pattern in getattr(config, split):
            found = matches(root, pattern, split, "folders")
            if not found:
                raise no_match(root, pattern, split, "nothing")
            for match in found:
                if match.is_dir():
                    for path in unfolded(match):
                        _add(splits, path, split)
                else:
                    _add(splits, match, split)
                    _add(listed, match, split)
        if not getattr(config, split):
            raise ValueError(
                f"`{split}` of the dataset is empty; name at least one folder inside {root}, `.` "
                "for itself, in params.yaml"
            )
    ordered = {path: splits[path] for path in sorted(splits)}
    check_shares([path for path in ordered if _ending(path) in _PICTURES], ordered, config.shares)
    return _Found(ordered, listed)


def _add(splits: dict[Path, tuple[str, ...]], path: Path, split: str) -> None:
    named = splits.get(path, ())
    splits[path] = named if split in named else (*named, split)


def _samples(paths: Iterable[Path], root: str, left_out: LeftOut) -> dict[str, _Sample]:
    """Return the samples by key. A `.json` alone is no sample, since many programs write one."""
    samples: dict[str, _Sample] = {}
    for path in paths:
        ending, name = _ending(path), path.relative_to(root)
        if any(part in NOISE or part.startswith(".") for part in name.parts):
            left_out.mention("hidden file or file of an operating system", str(path))
        elif not path.is_file():
            left_out.mention("named pipe, device or broken link among the files", str(path))
        elif ending == _LOG:
            refuse_failed(path, left_out)
        elif ending in _PICTURES or ending in ENDINGS:
            sample = samples.setdefault(name.with_suffix("").as_posix(), _Sample())
            if ending in _PICTURES:
                sample.pictures.append(path)
            else:
                sample.texts.setdefault(ending, []).append(path)
        else:
            left_out.mention("file that no rule reads", str(path))
    for key, sample in list(samples.items()):
        # Only its .json can be left: a sample begins with a picture or a caption file
        if not sample.pictures and "txt" not in sample.texts:
            for path in samples.pop(key).texts["json"]:
                left_out.mention("file that no rule reads", str(path))
    return samples


def _picture(sample: _Sample, where: str) -> Path:
    if len(sample.pictures) != 1:
        texts = chain.from_iterable(sample.texts.values())
        received = [path.name for path in (*sample.pictures, *texts)]
        reason = "several pictures of one key" if sample.pictures else "missing picture"
        allowed = ", ".join(f".{ending}" for ending in _PICTURES)
        raise Unusable(
            where,
            reason,
            f"received {' and '.join(received)}, allowed is one picture beside them, a file that "
            f"ends in {allowed}; rename or remove files",
        )
    return sample.pictures[0]


def _texts(sample: _Sample, where: str) -> dict[str, Path]:
    """Return the caption file of each ending. `a.TXT` beside `a.txt` is refused."""
    for ending, paths in sample.texts.items():
        if len(paths) > 1:
            raise Unusable(
                where,
                "several caption files of one key",
                f"received {' and '.join(path.name for path in paths)}, allowed is one file that "
                f"ends in .{ending}; rename or remove the others",
            )
    return {ending: paths[0] for ending, paths in sample.texts.items()}


def _check_listed(
    texts: Iterable[Path],
    listed: Mapping[Path, tuple[str, ...]],
    splits: tuple[str, ...],
    where: str,
) -> None:
    """Raise Unusable when a glob lists a caption file for another split than its picture.

    Only globs of files count: a glob of a folder means the pictures in it.
    """
    for path in texts:
        named = listed.get(path, ())
        if not set(named) <= set(splits):
            raise Unusable(
                where,
                "caption file of another split than its picture",
                f"received {path.name} in {', '.join(named)}, but the picture in "
                f"{', '.join(splits)}; allowed are the splits of the picture; narrow the globs of "
                "the dataset in params.yaml",
            )


def _contents(texts: Mapping[str, Path], where: str) -> dict[str, bytes]:
    contents = {}
    for ending, path in texts.items():
        num_bytes = path.stat().st_size
        if num_bytes > MAX_BYTES:
            raise Unusable(
                f"{where}.{ending}",
                "captions that are too large",
                f"the file has {num_bytes:,} bytes, allowed are {MAX_BYTES:,}; repair it",
            )
        contents[ending] = path.read_bytes()
    return contents


def _is_read(path: Path) -> bool:
    """Return whether the dataset depends on the content of a file."""
    return _ending(path) in (*_PICTURES, *ENDINGS, _LOG) and path.is_file()


def _ending(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
