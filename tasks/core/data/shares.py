"""Divides datasets that come without splits: the images of a file that several splits name are
divided by stated shares and a seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tasks.core.data.annotations import compared
from tasks.core.data.split_files import SplitFiles
from tasks.core.foundations.section import Range, Section
from tasks.core.foundations.seeding import derive_seed

Part = Annotated[float, Range(ge=0.0, le=1.0)]
# How far the sum of three shares may be from 1: 0.1 + 0.2 is not 0.3 in floats.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Shares(Section):
    """How images are divided.

    Attributes:
        seed: decides the split of each image.
        train, val, test: shares of the images (0..1), together 1. For a file that only two splits
            name, the shares of these two are scaled to 1.
    """

    seed: Annotated[int, Range(ge=0)]
    train: Part
    val: Part
    test: Part


@dataclass(frozen=True, kw_only=True)
class SharedFiles(SplitFiles):
    """The options that all readers of files without splits have.

    Attributes:
        shares: how the images of files that several splits name are divided; null where each file
            has one split.
    """

    shares: Shares | None


def check_shares(
    paths: Iterable[Path], splits: Mapping[Path, Sequence[str]], shares: Shares | None
) -> None:
    """Check that shares are stated where files need them, and only there.

    Args:
        paths: the files without a split of their own.
        splits: the splits whose options name each file.

    Raises:
        ValueError: they are missing, needless, or not together 1.
    """
    shared = [path for path in paths if len(splits[path]) > 1]
    if shared and shares is None:
        first = shared[0]
        raise ValueError(
            f"{first} is named by `{'` and by `'.join(splits[first])}` of the dataset, and "
            "`shares` is null; allowed is one split for a file, or shares, as {seed: 0, "
            "train: 0.8, val: 0.1, test: 0.1}; change it in params.yaml"
        )
    if shares is None:
        return
    if not shared:
        raise ValueError(
            f"`shares` of the dataset: received {shares}, but no file is named by two of train, "
            "val and test, so nothing is divided; write null, or name the file under each split "
            "in params.yaml"
        )
    total = shares.train + shares.val + shares.test
    if abs(total - 1) > _ROUNDING:
        raise ValueError(
            f"`shares` of the dataset: train, val and test are {total:g} together, allowed is 1; "
            "change them in params.yaml"
        )
    for path in shared:
        for split in splits[path]:
            if getattr(shares, split) == 0:
                raise ValueError(
                    f"`shares` of the dataset: {split} is 0, but `{split}` names {path} as other "
                    "splits do; allowed is a share above 0; change one of the two in params.yaml"
                )


def divided(images: Sequence[tuple[str, tuple[str, ...]]], shares: Shares | None) -> list[str]:
    """Return the split of each image, given as (name, splits of its file).

    Images of the same splits are ranked by a digest of seed and name, and the ranks are cut at the
    shares. So counts are exact to one image, the order of files changes nothing, and a new image
    moves few others. The digest takes names in the form in which they are compared, so that copies
    on other systems are divided equally.
    """
    found = [splits[0] for _, splits in images]
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, (_, splits) in enumerate(images):
        if len(splits) > 1:
            groups[splits].append(position)
    if shares is None:
        return found
    for splits, positions in groups.items():
        ranks = {}
        for position in positions:
            name = images[position][0]
            # The name breaks a tie of two digests
            ranks[position] = derive_seed(shares.seed, "split", compared(name)), name
        ranked = sorted(positions, key=ranks.__getitem__)
        whole = sum(getattr(shares, split) for split in splits)
        begin, done = 0, 0.0
        for split in splits:
            # The sum of shares is rounded, not each share: rounding errors do not add up
            done += getattr(shares, split)
            end = round(done / whole * len(ranked))
            for position in ranked[begin:end]:
                found[position] = split
            begin = end
    return found
