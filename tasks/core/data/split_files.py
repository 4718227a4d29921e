"""Finds the files of datasets stored as many similar files (shards or tables), named by globs for
each split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.core.data.annotations import dataset_folder, first_names
from tasks.core.foundations.records import SPLITS
from tasks.core.foundations.section import Section


@dataclass(frozen=True, kw_only=True)
class SplitFiles(Section):
    """The options that all readers of such a dataset have.

    Attributes:
        path: the dataset folder.
        train, val, test: names or globs of the files of each split inside it.
    """

    path: str
    train: list[str]
    val: list[str]
    test: list[str]


def files_of_splits(config: SplitFiles) -> dict[Path, tuple[str, ...]]:
    """Return every file that the options name, with the splits that name it.

    Files are in the order of splits, then of patterns, then of names that match a pattern.

    Raises:
        FileNotFoundError: there is no such folder, or a pattern matches no file.
        ValueError: a split without patterns, or a pattern that leaves the folder.
    """
    root = dataset_folder(config.path)
    splits: dict[Path, tuple[str, ...]] = {}
    for split in SPLITS:
        patterns = getattr(config, split)
        if not patterns:
            raise ValueError(
                f"`{split}` of the dataset is empty; name at least one file or glob inside "
                f"{root} in params.yaml"
            )
        for pattern in patterns:
            for path in _files(root, pattern, split):
                # Two patterns of a split may match one file, which counts once
                found = splits.get(path, ())
                splits[path] = found if split in found else (*found, split)
    return splits


def check_columns(option: str, picture: str, captions: Sequence[str]) -> None:
    """Raise ValueError when `captions` has a column twice, or has the column of pictures.

    Args:
        option: the parameter that holds `picture`, for messages.
        picture: the column of pictures, or of their names.
        captions: the columns of captions.
    """
    columns = [picture, *captions]
    [(name, count)] = Counter(columns).most_common(1)
    if count > 1:
        raise ValueError(
            f"`{option}` and `captions` of the dataset: received {', '.join(map(repr, columns))}; "
            f"allowed is each column once, and {name!r} is there {count} times; change them in "
            "params.yaml"
        )


def only_split(path: Path, splits: Sequence[str]) -> str:
    """Return the one split of a file; raise ValueError when several splits name the file."""
    if len(splits) > 1:
        raise ValueError(
            f"{path} is named by `{'` and by `'.join(splits)}` of the dataset, allowed is one "
            "split for a file; narrow the globs in params.yaml"
        )
    return splits[0]


def split_digests(
    root: str, splits: Mapping[Path, Sequence[str]], digest_of: Callable[[Path], str]
) -> list[tuple[str, list[str], str]]:
    """Return (name relative to `root`, splits, digest of the content) for each file, in the order
    of `splits`.
    """
    return [
        (path.relative_to(root).as_posix(), list(named), digest_of(path))
        for path, named in splits.items()
    ]


def matches(root: Path, pattern: str, field: str, allowed: str) -> list[Path]:
    """Return what a name or glob matches inside the dataset folder, sorted. `.` is the folder.

    Args:
        field: the parameter that holds `pattern`, for messages.
        allowed: what `pattern` may name, for messages.

    Raises:
        ValueError: the pattern leads out of the folder.
    """
    parts = PurePosixPath(pattern).parts
    if PurePosixPath(pattern).is_absolute() or ".." in parts:
        raise ValueError(
            f"`{field}` of the dataset has {pattern!r}, allowed are {allowed} inside {root}; "
            "change it in params.yaml"
        )
    return sorted(root.glob(pattern)) if parts else [root]


def no_match(root: Path, pattern: str, field: str, problem: str) -> FileNotFoundError:
    """Return the error for a pattern that matches `problem`, such as "nothing"."""
    return FileNotFoundError(
        f"`{field}` of the dataset has {pattern!r}, which matches {problem} in {root}; the "
        f"folder holds {first_names(root)}; change it in params.yaml"
    )


def _files(root: Path, pattern: str, split: str) -> list[Path]:
    found = matches(root, pattern, split, "names and globs")
    files = [path for path in found if path.is_file()]
    if not files:
        odd = [path.name for path in found if not path.is_dir()]
        problem = f"{odd[0]}, a broken link or no file," if odd else "no file"
        raise no_match(root, pattern, split, problem)
    return files
