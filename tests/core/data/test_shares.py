"""Images divided by a seeded share: exact counts, the same for any order, few moves."""

import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from tasks.core.data.shares import Shares, check_shares, divided

ALL = ("train", "val", "test")
SHARES = Shares(seed=3, train=0.7, val=0.2, test=0.1)
NAMES = [f"{number}.jpg" for number in range(101)]


def _by_name(names, shares=SHARES, splits=ALL):
    found = divided([(name, splits) for name in names], shares)
    return dict(zip(names, found, strict=True))


def test_counts_are_the_shares_to_one_image():
    assert Counter(_by_name(NAMES).values()) == {"train": 71, "val": 20, "test": 10}


def test_files_of_two_splits_take_the_shares_of_these_two():
    found = _by_name(NAMES, Shares(seed=0, train=0.5, val=0.3, test=0.2), ("val", "test"))
    assert Counter(found.values()) == {"val": 61, "test": 40}


def test_the_order_changes_nothing_and_the_seed_does():
    assert _by_name(NAMES) == _by_name(NAMES[::-1])
    assert _by_name(NAMES) != _by_name(NAMES, Shares(seed=4, train=0.7, val=0.2, test=0.1))


@pytest.mark.parametrize(
    "written",
    [
        lambda name: name.replace("/", "\\"),
        lambda name: unicodedata.normalize("NFD", name),
        lambda name: f"./{name}",
    ],
)
def test_names_that_are_compared_as_equal_are_divided_alike(written):
    names = [f"caf\u00e9/{name}" for name in NAMES]
    others = [written(name) for name in names]
    assert set(names).isdisjoint(others)
    assert list(_by_name(names).values()) == list(_by_name(others).values())
    # Two spellings of one name have equal digests: the spelling ranks them
    both = [*names, *others]
    assert _by_name(both) == _by_name(both[::-1])


def test_a_new_image_moves_at_most_two_others():
    before, after = _by_name(NAMES), _by_name([*NAMES, "new.jpg"])
    assert sum(before[name] != after[name] for name in NAMES) <= 2


def test_a_file_of_one_split_keeps_it():
    images = [("a.jpg", ("val",)), *((name, ALL) for name in NAMES), ("b.jpg", ("test",))]
    found = divided(images, SHARES)
    assert (found[0], found[-1]) == ("val", "test")
    assert found[1:-1] == list(_by_name(NAMES).values())


@pytest.mark.parametrize(
    ("shares", "splits", "message"),
    [
        (None, ALL, "a is named by `train` and by `val` and by `test`.*`shares` is null"),
        (SHARES, ("train",), "no file is named by two of train, val and test"),
        (Shares(seed=0, train=0.5, val=0.3, test=0.3), ALL, "are 1.1 together, allowed is 1"),
        (Shares(seed=0, train=0.9, val=0.1, test=0.0), ALL, "test is 0, but `test` names a"),
    ],
)
def test_shares_are_stated_where_they_are_needed_and_only_there(shares, splits, message):
    with pytest.raises(ValueError, match=message):
        check_shares([Path("a")], {Path("a"): splits}, shares)
