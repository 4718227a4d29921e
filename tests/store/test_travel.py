"""Artifacts travel through a store: what one checkout made, another one uses, and whatever is wrong
in the store is seen and made again.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.store import caching, manifests
from tasks.store.artifacts import Key, verify
from tasks.store.manifests import MANIFEST
from tasks.store.remote import Remote
from tasks.store.remote_files import Address
from tests.store.checkouts import CONTENT, FOLDER, KEY, Checkout, build, never

OTHER = {"images.bin": b"other bytes", "tables/rows.json": b"[]"}


@pytest.fixture
def store(tmp_path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def pair(tmp_path, store) -> tuple[Checkout, Checkout]:
    """A checkout that has made the artifact and pushed it, and one that has nothing."""
    first = Checkout(tmp_path / "first", store)
    first.obtain(build)
    return first, Checkout(tmp_path / "second", store.as_uri())


def manifest_in(store: Path) -> Path:
    (found,) = store.rglob(MANIFEST)
    return found


def blob_in(store: Path, name: str) -> Path:
    """The file of the store that holds the artifact's file of that name."""
    folder = manifest_in(store).parent
    return folder / manifests.read(folder).files[name]


def test_what_one_checkout_made_another_uses(pair):
    first, second = pair
    ref = second.obtain(never)
    assert ref.is_cached and second.files() == first.files() == CONTENT
    assert (second.folder / FOLDER / MANIFEST).read_bytes() == (
        first.folder / FOLDER / MANIFEST
    ).read_bytes()
    assert second.left() == []
    assert second.obtain(never) == ref


def test_another_key_is_not_pulled_and_lies_beside_the_first(pair, tmp_path, store):
    _, second = pair
    other = replace(KEY, inputs={"raw": "s"})
    second.obtain(lambda work: build(work, OTHER), other)
    third = Checkout(tmp_path / "third", store)
    third.obtain(never, other)
    assert third.files() == OTHER
    third.obtain(never)  # replaces what is there, as a build would
    assert third.files() == CONTENT


def test_what_the_store_lacks_is_pushed_by_the_next_lookup(pair, store):
    first, second = pair
    for path in store.rglob("*"):
        if path.is_file():
            path.unlink()
    first.obtain(never)
    second.obtain(never)
    assert second.files() == CONTENT


def test_nothing_travels_without_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caching.obtain(FOLDER, KEY, build)
    assert verify(FOLDER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_plan_neither_pulls_nor_pushes(pair, store):
    _, second = pair
    with caching.looking(), pytest.raises(caching.NotMade):
        second.obtain(never)
    assert not (second.folder / FOLDER).exists()


def test_a_damaged_artifact_here_is_pulled_again(pair):
    first, _ = pair
    (first.folder / FOLDER / "images.bin").write_bytes(b"cut")
    first.obtain(never)
    assert first.files() == CONTENT


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, **changed: object) -> None:
    """Change a manifest and its own digest: what somebody else's program could write."""
    manifest = replace(manifests.read(path.parent), **changed)
    manifests.write(path.parent, manifest)


def with_name(path: Path, name: str) -> None:
    files = manifests.read(path.parent).files
    digest = files.pop("images.bin")
    manifest = replace(manifests.read(path.parent), files={**files, name: digest})
    path.write_text(manifests._text(manifest))


def link_out(path: Path) -> None:
    target = path.parents[4] / "outside"
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)


def move_out(path: Path) -> None:
    """Put a link in place of the folder of the artifact."""
    target = path.parents[4] / "outside"
    path.parent.rename(target)
    path.parent.symlink_to(target)


def outside(folder: Path) -> dict[Path, bytes | None]:
    """Return all that lies neither in the store nor in the second checkout."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] not in ("store", "second")
    }


BLOB, TEXT = "blob", "manifest"
DAMAGES = {
    "a flipped byte": (BLOB, flip),
    "a cut file": (BLOB, lambda path: path.write_bytes(path.read_bytes()[:-7])),
    "an empty file": (BLOB, lambda path: path.write_bytes(b"")),
    "a longer file": (BLOB, lambda path: path.write_bytes(path.read_bytes() + b"more")),
    "a missing file": (BLOB, Path.unlink),
    "a folder for a file": (BLOB, lambda path: path.unlink() or path.mkdir()),
    "a pipe for a file": (BLOB, lambda path: path.unlink() or os.mkfifo(path)),
    "a link for a file": (BLOB, link_out),
    "a missing manifest": (TEXT, Path.unlink),
    "an empty manifest": (TEXT, lambda path: path.write_text("")),
    "a page for a manifest": (TEXT, lambda path: path.write_text("<html>not found</html>")),
    "a manifest without end": (TEXT, lambda path: path.write_text("[" * 100_000)),
    "a huge manifest": (TEXT, lambda path: os.truncate(path, 2**40)),
    "a flipped manifest": (TEXT, flip),
    "a manifest of another key": (TEXT, lambda path: rewrite(path, key="0" * 64)),
    "a manifest of another stage": (TEXT, lambda path: rewrite(path, stage="evaluate")),
    "a file of the folder above": (TEXT, lambda path: with_name(path, "../evil")),
    "a file of the whole disk": (TEXT, lambda path: with_name(path, "/tmp/vl-distillery-evil")),
    "a hidden file": (TEXT, lambda path: with_name(path, ".checkpoint")),
    "a second manifest": (TEXT, lambda path: with_name(path, "tables/manifest.json")),
    "a file in a file": (TEXT, lambda path: with_name(path, "tables/rows.json/evil")),
    "a name of nothing": (TEXT, lambda path: with_name(path, "")),
    "a name with a line": (TEXT, lambda path: with_name(path, "a\nb")),
    "a name too long": (TEXT, lambda path: with_name(path, "a" * 300)),
    "a link for the folder": (TEXT, move_out),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_in_the_store_is_made_again_and_replaced_there(
    pair, tmp_path, store, damage
):
    first, second = pair
    kind, spoil = DAMAGES[damage]
    spoil(blob_in(store, "images.bin") if kind == BLOB else manifest_in(store))
    before = outside(tmp_path)
    assert not second.obtain(build).is_cached
    assert second.files() == first.files() == CONTENT
    assert second.left() == []
    assert outside(tmp_path) == before
    assert not Path("/tmp/vl-distillery-evil").exists()
    # A link is refused, and what it points to is not written to: somebody has to remove it
    if "a link" not in damage and "a folder" not in damage and "a pipe" not in damage:
        third = Checkout(tmp_path / "third", store)
        assert third.obtain(never).is_cached and third.files() == CONTENT


def test_two_writers_of_other_bytes_leave_one_whole_artifact(tmp_path, store):
    contents = [{"a": bytes([n]) * 70_001, "b": bytes([n]) * 7} for n in range(2)]
    checkouts = []
    for number, content in enumerate(contents):
        own = tmp_path / f"store of {number}"
        own.mkdir()
        checkouts.append(Checkout(tmp_path / str(number), own))
        checkouts[-1].obtain(lambda work, content=content: build(work, content))

    def send(one: Checkout) -> None:
        folder = one.folder / FOLDER
        Remote(str(store)).send(
            Address.of(KEY), folder, manifests.read(folder), is_replaced=True, report=None
        )

    for _ in range(5):
        threads = [threading.Thread(target=send, args=(one,)) for one in checkouts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reader = Checkout(tmp_path / "reader", store)
        reader.obtain(never)
        assert reader.files() in contents
        (reader.folder / FOLDER / MANIFEST).unlink()


def test_what_is_made_again_by_force_replaces_what_the_store_has(pair):
    first, second = pair
    first.obtain(lambda work: build(work, OTHER), force=True)
    second.obtain(never)
    assert second.files() == OTHER


def test_what_other_code_made_is_not_pushed_as_this_codes(pair, tmp_path, store):
    first, second = pair
    newer = replace(KEY, code="newer")
    assert first.obtain(never, newer, accept_code=True).is_cached
    assert not second.obtain(lambda work: build(work, OTHER), newer).is_cached


class TestWithoutRawData:
    """The key lacks inputs: what others made from them is found by all the rest of it."""

    missing = FileNotFoundError("there is no dataset folder")
    bare = replace(KEY, inputs={})

    def test_it_is_pulled(self, pair):
        _, second = pair
        assert second.obtain(never, self.bare, missing=self.missing).is_cached
        assert second.files() == CONTENT

    def test_that_of_other_parameters_is_not(self, pair):
        _, second = pair
        other = Key(KEY.stage, {"size": 9}, {}, KEY.code)
        with pytest.raises(FileNotFoundError):
            second.obtain(never, other, missing=self.missing)

    def test_of_two_none_is_chosen(self, pair):
        first, second = pair
        first.obtain(lambda work: build(work, OTHER), replace(KEY, inputs={"raw": "s"}))
        with pytest.raises(FileNotFoundError, match="2 artifacts"):
            second.obtain(never, self.bare, missing=self.missing)
        assert not (second.folder / FOLDER).exists()

    def test_what_came_by_other_ways_is_pushed(self, pair, tmp_path, store):
        first, second = pair
        for path in store.rglob(MANIFEST):
            path.unlink()
        first.obtain(never, self.bare, missing=self.missing)
        assert second.obtain(never).is_cached


def test_the_manifest_names_no_place(pair):
    first, _ = pair
    text = json.dumps(json.loads((first.folder / FOLDER / MANIFEST).read_text()))
    assert str(first.folder) not in text and "store" not in text
