"""Measuring a piece of work and saying what the whole will take: the arithmetic of `plan`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tasks.core.foundations.records import ImageCaptions, Split

T = TypeVar("T")
# Calls are repeated this long: shorter measurements scatter by a quarter on a busy machine
MIN_SECONDS = 0.4
MAX_CALLS = 200


def free_seconds() -> float:
    """Return a clock that stands still while this thread waits for a core that other work has
    (Linux; elsewhere it does not).

    What is measured with it on a busy machine is what the work takes on a free one.
    """
    try:
        # Ns ready to run, without a core
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except (OSError, IndexError):
        waited = 0
    return time.perf_counter() - waited / 1e9


def seconds_of(call: Callable[[], object]) -> float:
    """Return the mean free seconds of `call` over at least `MIN_SECONDS`, after one call that pays
    for what is paid once.

    When the first call alone takes ten times as long, it is the measurement.
    """
    first = timed(call)[1]
    if first > 10 * MIN_SECONDS:
        return first
    started, count = free_seconds(), 0
    while count < MAX_CALLS and (count == 0 or free_seconds() - started < MIN_SECONDS):
        call()
        count += 1
    return (free_seconds() - started) / count


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return the result of one call and its free seconds."""
    started = free_seconds()
    found = call()
    return found, free_seconds() - started


def onward(small: tuple[int, float], large: tuple[int, float], count: int) -> float:
    """Return the seconds for `count` items from two measurements (items, seconds): the line through
    both, which never falls.

    What the first items pay for the others (words that come again) is in both measurements, and is
    not counted again.
    """
    (few, short), (many, long) = small, large
    if count <= many:
        return long * count / many
    return long + (count - many) * max(0.0, long - short) / (many - few)


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, evenly spaced over all."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def pick(rows: Sequence[ImageCaptions], counts: dict[str, int]) -> list[ImageCaptions]:
    """Return evenly spaced examples, at most `counts[split]` of each split."""
    return [
        row
        for split, count in counts.items()
        for row in spread([row for row in rows if row.split == split], count)
    ]


def first_images(split: Split, count: int) -> Split:
    """Return the first `count` images of a split with their captions."""
    num_captions = int((split.caption_image_idx < count).sum())
    return replace(
        split,
        images=split.images[:count],
        caption_image_idx=split.caption_image_idx[:num_captions],
        text_embeds=split.text_embeds[:num_captions],
        captions=split.captions[:num_captions],
        features=None if split.features is None else split.features[:count],
    )
