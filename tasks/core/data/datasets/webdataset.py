"""Reads WebDataset: shards are uncompressed tars, and the files of one example in a shard have the
same key, `<key>.jpg` beside `<key>.txt`.

Source: A. Aizman, G. Maltby, T. Breuel, High Performance I/O for Large Scale Deep Learning (2019),
and img2dataset, which writes such shards. As there, a key is a member's folder and its name up to
the first dot, and the rest is the ending.

* Picture: `.jpg`, `.jpeg`, `.png` or `.webp`, one a key, read in place in its shard when it is
  prepared.
* Captions: the lines of `.txt` that are not blank. Without a `.txt` they are `captions` (a list) or
  else `caption` of `.json`. A `.txt` of several lines is one caption when it equals the `caption`
  of the `.json` beside it.

A table of img2dataset beside a shard says which URLs gave no picture. Each of them is refused as a
failed download (`download_logs.py`).

Other members beside an example are left out, and counted. A key with a picture or captions only is
refused. If a key has neither, each member of it is refused: a name with more dots, for instance.
Shards of each split are often numbered from the beginning, so an example is named
`<split>/<member>`. Inside a split a key is there once. Nothing is unpacked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tasks.core.data.annotations import check_name, file_digest, text_digest
from tasks.core.data.download_logs import log_of, refuse_failed
from tasks.core.data.file_kinds import NOISE
from tasks.core.data.image_files import StoredFile, StoredImage
from tasks.core.data.left_out import EMPTY_FILE, LeftOut, Unusable
from tasks.core.data.sample_captions import ENDINGS, MAX_BYTES, captions_of
from tasks.core.data.split_files import SplitFiles, files_of_splits, only_split, split_digests
from tasks.core.data.tars import Member, read_tar, tar_digest
from tasks.core.foundations.records import ImageCaptions

_PICTURES = ("jpg", "jpeg", "png", "webp")
_READ = ", ".join(f".{ending}" for ending in (*_PICTURES, *ENDINGS))


@dataclass(frozen=True, kw_only=True)
class Config(SplitFiles):
    """Where the shards lie, `.tar`; see `SplitFiles`."""


@dataclass
class _Sample:
    """The members of a shard under one key.

    Attributes:
        pictures: members with an ending of `_PICTURES`.
        texts: {ending: bytes} of members with an ending of `ENDINGS`.
        others: the other endings.
    """

    pictures: list[StoredFile] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    @property
    def endings(self) -> list[str]:
        """The endings of its members. Endings of pictures count as one, "picture"."""
        return [*(["picture"] if self.pictures else []), *self.texts, *self.others]


def examples(config: Config, left_out: LeftOut) -> Iterable[ImageCaptions]:
    """Yield the examples of train, val and test. Shards are in the order of the options, keys in
    the order of their first member.

    Args:
        left_out: takes keys and members that cannot be used.

    Raises:
        FileNotFoundError, ValueError: a shard is missing or damaged.
    """
    places: dict[tuple[str, str], str] = {}
    for path, splits in files_of_splits(config).items():
        split = only_split(path, splits)
        log = log_of(path)
        if log is not None:
            refuse_failed(log, left_out)
        samples = _samples(path, left_out)
        if not samples and not read_tar(path).members:
            left_out.mention(EMPTY_FILE, str(path))
        for key, sample in samples.items():
            where = f"{path}: key {key!r}"
            with left_out.catching():
                first = places.setdefault((split, key), where)
                if first != where:
                    raise Unusable(
                        where,
                        "key that is there twice",
                        f"the key is in {split} a second time, first at {first}; allowed is once; "
                        "remove one of the two",
                    )
                picture = _picture(sample, where)
                captions = captions_of(sample.texts, sample.others, where, left_out)
                name = f"{split}/{picture.name}"
                yield ImageCaptions(name, split, captions, StoredImage(picture, where))


def raw_digest(config: Config, digest_of: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of the names, splits and contents of the shards, and of the tables of
    img2dataset beside them. It does not depend on `path`.
    """
    shards = files_of_splits(config)
    digests = split_digests(config.path, shards, lambda path: tar_digest(path, digest_of))
    content = {"shards": digests}
    logs = {log: splits for path, splits in shards.items() if (log := log_of(path)) is not None}
    # Not even an empty entry, so that shards without tables have the digest of shards alone
    if logs:
        content["logs"] = split_digests(config.path, logs, digest_of)
    return text_digest(content)


def _samples(path: Path, left_out: LeftOut) -> dict[str, _Sample]:
    """Return the samples of a shard by key, in the order of their first member."""
    archive = read_tar(path)
    samples: dict[str, _Sample] = {}
    with path.open("rb") as handle:
        for stored in archive.members:
            with left_out.catching():
                _add(samples, stored, handle, path, left_out)
    # A writer that was not closed leaves whole samples and no end. So does a copy that broke off
    # between two samples, but most copies break off inside of one.
    if archive.doubt:
        _check_last(list(samples.values()), path, archive.doubt)
        left_out.mention(archive.doubt, str(path))
    for key, sample in list(samples.items()):
        _leave_out_others(sample, f"{path}: key {key!r}", left_out)
        if not sample.pictures and not sample.texts:
            del samples[key]
    return samples


def _add(
    samples: dict[str, _Sample], stored: Member, handle: BinaryIO, path: Path, left_out: LeftOut
) -> None:
    """Put a member into the sample of its key."""
    where = f"{path}: member {stored.name!r}"
    name = PurePosixPath(check_name(stored.name.lstrip("/"), where))
    # The key ends at the first dot of the name, as in webdataset; the folder belongs to it
    stem, _, rest = name.name.partition(".")
    if not stem or any(part in NOISE for part in name.parts):
        left_out.mention("hidden file or file of an operating system", where)
        return
    sample = samples.setdefault(name.with_name(stem).as_posix(), _Sample())
    ending = rest.lower()
    if ending not in (*_PICTURES, *ENDINGS):
        sample.others.append(rest)
    elif not stored.is_file:
        raise Unusable(
            where,
            "link or sparse file",
            "is a link or a sparse file, allowed are plain files; write the shard again",
        )
    elif ending in _PICTURES:
        sample.pictures.append(StoredFile(name.as_posix(), path, stored.offset, stored.num_bytes))
    elif ending in sample.texts or stored.num_bytes > MAX_BYTES:
        raise Unusable(
            f"{path}: key {stem!r}",
            "captions that are there twice or too large",
            f".{ending} is there twice, or its {stored.num_bytes} bytes are more than {MAX_BYTES}; "
            "repair the shard",
        )
    else:
        handle.seek(stored.offset)
        sample.texts[ending] = handle.read(stored.num_bytes)


def _check_last(samples: list[_Sample], path: Path, doubt: str) -> None:
    """Refuse a shard with a doubtful end if its last key has only some of the endings of the key
    before it: such a shard stops inside of a key.
    """
    if len(samples) > 1 and set(samples[-1].endings) < set(samples[-2].endings):
        raise ValueError(
            f"{path}: not a whole, uncompressed tar: it is a {doubt}, and its "
            f"last key has {samples[-1].endings}, the one before {samples[-2].endings}; get the "
            "file again"
        )


def _leave_out_others(sample: _Sample, where: str, left_out: LeftOut) -> None:
    """Count the members of a key that no rule reads.

    Members beside an example are mentioned. Refused are members of a key without an example, and
    examples of their own under a name with more dots: `a.b.jpg` and `a.b.txt` beside `a.jpg`.
    """
    # Endings without their last part -> the last parts: {"b": {"jpg", "txt"}}
    kinds: dict[str, set[str]] = defaultdict(set)
    for ending in sample.others:
        stem, _, kind = ending.lower().rpartition(".")
        kinds[stem].add(kind)
    for ending in sample.others:
        own = kinds[ending.lower().rpartition(".")[0]]
        is_example = not own.isdisjoint(_PICTURES) and not own.isdisjoint(ENDINGS)
        if (sample.pictures or sample.texts) and not is_example:
            left_out.mention("member beside an example that no rule reads", f"{where}.{ending}")
        else:
            left_out.refuse(
                Unusable(
                    f"{where}.{ending}",
                    "member that no rule reads",
                    f"received the ending .{ending}, read are {_READ}, after the first dot of a "
                    "name; rename the members",
                )
            )


def _picture(sample: _Sample, where: str) -> StoredFile:
    if len(sample.pictures) != 1:
        received = " and ".join(file.name for file in sample.pictures) or ", ".join(
            f".{ending}" for ending in sample.endings
        )
        # img2dataset writes the status into the .json of a sample
        reason, problem = "several pictures of one key", "several pictures have this key"
        if not sample.pictures:
            reason, problem = "missing picture", "the picture is missing"
            if b'"failed' in sample.texts.get("json", b""):
                reason = "failed download"
        allowed = ", ".join(f".{ending}" for ending in _PICTURES)
        raise Unusable(
            where,
            reason,
            f"{problem}; received {received}, allowed is one member that ends in {allowed}; repair "
            "the shard",
        )
    return sample.pictures[0]
