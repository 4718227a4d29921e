"""Why an artifact is made again: in the log, in `NotMade`, and in the manifest that replaces it."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tasks.planning.inventory import Cell, look
from tasks.store import artifacts, caching, code_digests, reasons
from tasks.store.artifacts import Key

FOLDER = Path("data/a")
EXPERT = {"train_experts": {"lr_img": 0.02, "sizes": (1, 2)}, "seed": 0}


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _code(monkeypatch, **modules):
    digest = artifacts.canonical_digest(modules)
    monkeypatch.setitem(code_digests._MODULES, digest, modules)
    return digest


def _build(work: Path):
    (work / "x.txt").write_text("x")
    return {}


def _why(key, caplog, **how):
    """The reason, the same from `NotMade`, the log and the manifest."""
    with caching.looking(), pytest.raises(caching.NotMade) as asked:
        caching.obtain(FOLDER, key, _build, **how)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="vl_distillery"):
        caching.obtain(FOLDER, key, _build, **how)
    manifest = artifacts.verify(FOLDER)
    assert manifest is not None and manifest.because == asked.value.reason
    assert f"rebuilding data/a: {manifest.because}" in caplog.text
    assert f"would be made, because {manifest.because}" in str(asked.value)
    return manifest.because


def test_modules_parameters_and_inputs_are_named(monkeypatch, caplog):
    old = Key("train_experts", EXPERT, {"prepared": "1"}, _code(monkeypatch, a="1", b="1"))
    caching.obtain(FOLDER, old, _build)
    assert artifacts.verify(FOLDER).because is None
    assert artifacts.verify(FOLDER).modules == {"a": "1", "b": "1"}
    changed = {"train_experts": {"lr_img": 0.03, "sizes": (1, 2), "more": True}, "seed": 0}
    new = Key("train_experts", changed, {"prepared": "2"}, _code(monkeypatch, a="1", b="2", c="1"))
    assert _why(new, caplog) == (
        "changed train_experts.lr_img 0.02 -> 0.03, train_experts.more nothing -> true, "
        "input prepared, code of b, code of c"
    )
    assert _why(new, caplog, force=True) == reasons.FORCED


def test_long_differences_are_cut(monkeypatch, caplog):
    names = [f"m{number}" for number in range(8)]
    old = Key("distill", {}, {}, _code(monkeypatch, **dict.fromkeys(names, "1")))
    caching.obtain(FOLDER, old, _build)
    new = replace(old, code=_code(monkeypatch, **dict.fromkeys(names, "2")))
    reason = _why(new, caplog)
    assert reason.endswith("code of m4 and 3 more") and "m5" not in reason
    assert _why(replace(new, params={"x": "y" * 500}), caplog).endswith("yy...")


def test_damage_is_the_reason_too(caplog):
    key = Key("distill", {}, {}, "code")
    caching.obtain(FOLDER, key, _build)
    (FOLDER / "x.txt").write_text("y")
    assert "x.txt does not match" in _why(key, caplog)


def test_an_older_manifest_without_modules_says_code(caplog):
    key = Key("distill", {"a": 1}, {}, "old")
    caching.obtain(FOLDER, key, _build)
    path = FOLDER / artifacts.MANIFEST
    names = ("key", "stage", "params", "inputs", "code", "files", "facts", "accepted_code")
    manifest = {name: asdict(artifacts.verify(FOLDER))[name] for name in names}
    path.write_text(json.dumps({**manifest, "format_version": 1}))
    assert caching.obtain(FOLDER, key, _build).is_cached
    assert _why(replace(key, code="new"), caplog) == "changed code"


def test_accepted_code_is_compared_from_then_on(monkeypatch, caplog):
    key = Key("distill", {}, {}, _code(monkeypatch, a="1"))
    caching.obtain(FOLDER, key, _build)
    caching.obtain(FOLDER, replace(key, code=_code(monkeypatch, a="2")), _build, accept_code=True)
    assert artifacts.verify(FOLDER).modules == {"a": "2"}


def test_the_inventory_of_a_plan_knows_why():
    def make(number):
        return caching.obtain(FOLDER, Key("distill", {"lr": number}, {}, "code"), _build)

    make(1)
    entries = look([Cell("distill", "a", "a", make, number, ()) for number in (1, 2)])
    assert [entry.because for entry in entries] == [None, "changed lr 1 -> 2"]
