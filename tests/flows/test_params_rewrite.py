"""`dvc exp run -S` rewrites params.yaml: one value of one profile changes, all comments stay."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

from tasks.settings import params
from tasks.settings.overrides import override
from tests.workspace import ROOT, SETTINGS

pytestmark = pytest.mark.services
PROFILES = sorted(params.read_tree(ROOT / "params.yaml")["profiles"])
# A value of a merged block, one in a mapping below a merge, and a list.
CHANGES = ("distill.matching.syn_steps=3", "train_experts.augment.crop_scale=0.75", "budgets=[7,9]")


def comments(text: str) -> list[str]:
    """Return what stands behind each `#`, in order."""
    return re.findall(r"(?:^|\s)#.*$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_value_set_by_dvc_changes_that_value_alone_and_keeps_the_comments(
    profile, change, tmp_path
):
    from dvc.utils.hydra import apply_overrides
    from dvc.utils.serialize import load_yaml

    for name in SETTINGS:
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / "params.yaml"
    before = path.read_text()
    override(wanted := params.read_tree(path), f"profiles.{profile}.{change}")
    apply_overrides(path, [f"profiles.{profile}.{change}"])  # what `dvc exp run -S` calls
    after = path.read_text()
    assert params.read_tree(path) == wanted != params.read_tree(ROOT / "params.yaml")
    assert load_yaml(path) == yaml.safe_load(after)  # DVC reads it as we do
    assert yaml.safe_load(after)["shared"] == yaml.safe_load(before)["shared"]
    assert comments(after) == comments(before) != []
