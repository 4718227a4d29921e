"""presets.yaml lies beside params.yaml, and a wrong one is refused with its place."""

from __future__ import annotations

import shutil

import pytest

from tasks.settings import params
from tests.workspace import ROOT, SETTINGS


@pytest.fixture
def copied(tmp_path):
    """A copy of params.yaml with presets.yaml beside it."""
    for name in SETTINGS:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path / "params.yaml"


def test_a_profile_without_cells_of_its_own_takes_those_of_the_tables(copied):
    tree = params.read_tree(copied)
    assert tree["profiles"]["coco"]["presets"] == {} != tree["profiles"]["toy"]["presets"]
    assert "shared" not in tree and "main" in params.presets(["profile=coco"], path=copied)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("presets: {}", r"presets\.yaml: received the keys presets; .*needed: presets, profiles"),
        (
            "{presets: {}, profiles: [], studies: {}}",
            r"presets\.yaml: profiles: received \[\]; allowed is",
        ),
        (
            "{presets: {}, profiles: {cifar: {}}, studies: {}}",
            r"presets\.yaml: profiles: received cifar; allowed are the profiles of .*toy",
        ),
        ("[", r"presets\.yaml is not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused(copied, text, message):
    copied.with_name("presets.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        params.load(path=copied)


def test_presets_in_params_are_refused(copied):
    copied.write_text(copied.read_text() + "\npresets: {}\n")
    with pytest.raises(ValueError, match=r"received `presets`.*move it to .*presets\.yaml"):
        params.load(path=copied)


def test_a_missing_file_is_named(copied):
    copied.with_name("presets.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"presets\.yaml is not in"):
        params.load(path=copied)
