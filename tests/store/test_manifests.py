"""What a manifest says is what was written: flips and edits are named and made again, never
believed and never a traceback.
"""

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from tasks.store import artifacts, caching, manifests
from tasks.store.artifacts import Key

FOLDER = Path("data/a")
KEY = Key(
    "distill",
    {"method": {"lr_img": {20: 1.0, 100: 2.0}, "mean": (0.5, 0.5)}, "seed": 0},
    {"prepared": "1" * 64},
    "c" * 64,
)


@pytest.fixture(autouse=True)
def _artifact(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _obtain()


def _obtain():
    def build(work):
        (work / "x.txt").write_text("x")
        return {"device": "cpu", "num_images": {"train": 3}}

    return caching.obtain(FOLDER, KEY, build)


def _manifest():
    return FOLDER / manifests.MANIFEST


def _is_made_again():
    with pytest.raises(artifacts.DamagedArtifact, match=r"data/a: manifest\.json"):
        manifests.read(FOLDER)
    again = _obtain()
    return not again.is_cached and _obtain().is_cached


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_byte_is_unseen(seed):
    draw, whole = random.Random(seed), _manifest().read_bytes()
    for _ in range(100):
        place, bits = draw.randrange(len(whole)), draw.randrange(1, 256)
        flipped = bytearray(whole)
        flipped[place] ^= bits
        _manifest().write_bytes(flipped)
        with pytest.raises(artifacts.DamagedArtifact, match="data/a"):
            artifacts.verify(FOLDER)
    assert _is_made_again()


@pytest.mark.parametrize("length", [0, 1, 200, -1])
def test_no_cut_is_unseen(length):
    _manifest().write_bytes(_manifest().read_bytes()[:length])
    assert _is_made_again()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("inputs", "prepared"), "2" * 64),
        (("params", "seed"), 1),
        (("stage",), "evaluate"),
        (("facts", "device"), "another"),
        (("facts", "seconds"), 0.0),
        (("because",), "no reason"),
        (("accepted_code",), "d" * 64),
        (("format_version",), 1),
        (("format_version",), 3),
    ],
)
def test_no_edit_is_unseen(place, value):
    tree = json.loads(_manifest().read_text())
    inner = tree
    for name in place[:-1]:
        inner = inner[name]
    assert inner[place[-1]] != value
    inner[place[-1]] = value
    _manifest().write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")
    assert _is_made_again()


def test_other_white_space_is_seen_too():
    _manifest().write_text(json.dumps(json.loads(_manifest().read_text()), indent=2))
    assert _is_made_again()


def _as_version_1(**changes):
    """The manifest as programs before version 2 wrote it, which had no digest of its own."""
    fields = {**asdict(manifests.read(FOLDER)), "format_version": 1, **changes}
    _manifest().write_text(json.dumps(fields, indent=1, sort_keys=True))


def test_a_manifest_of_version_1_is_still_read():
    _as_version_1()
    assert _obtain().is_cached
    assert manifests.read(FOLDER, "device").facts["device"] == "cpu"


@pytest.mark.parametrize(
    "changes",
    [
        {"files": ["x.txt"]},
        {"files": {"x.txt": 3}},
        {"files": {"../x.txt": "0"}},
        {"files": {"/etc/hostname": "0"}},
        {"inputs": {"prepared": None}},
        {"params": []},
        {"key": 7},
        {"facts": None},
        {"facts": {"seconds": "long"}},
        {"facts": {"git": {"commit": 1, "is_dirty": None}}},
        {"facts": {"versions": ["torch"]}},
        {"facts": {"num_images": {"train": "3"}}},
        {"modules": 1},
        {"more": 1},
    ],
)
def test_wrong_types_are_named_and_never_a_traceback(changes):
    _as_version_1(**changes)
    assert _is_made_again()


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "{}", "\xff", "[" * 4000])
def test_text_that_is_no_manifest_is_named(text):
    _manifest().write_bytes(text.encode("latin-1"))
    assert _is_made_again()


def test_a_fact_that_a_reader_needs_is_named():
    _as_version_1(facts={})
    with pytest.raises(artifacts.DamagedArtifact, match="has no seconds, device among its facts"):
        manifests.read(FOLDER, "seconds", "device")
