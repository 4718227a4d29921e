"""The code part of a key: comments and docstrings do not count, mathematics does, for the stages
that use it and no others.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.stages import STAGES

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json
from tasks.store import caching
from tasks.stages import STAGES
print(json.dumps({name: caching.code_digest(stage.code) for name, stage in STAGES.items()}))
"""


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(
        ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def _digests(folder):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def _changed(folder, file, old, new):
    before = _digests(folder)
    path = folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = _digests(folder)
    return {name for name in STAGES if before[name] != after[name]}


def test_a_docstring_or_a_comment_changes_no_key(copy):
    text = '"""Return z (B, B): cosine similarity over tau'
    assert (
        _changed(
            copy,
            "tasks/core/training/losses.py",
            text,
            '"""Give z (B, B): cosine similarity over tau',
        )
        == set()
    )
    assert (
        _changed(copy, "tasks/core/training/losses.py", "TAU = 0.07", "# why\nTAU  =  0.07")
        == set()
    )


def test_shared_mathematics_changes_the_keys_of_what_uses_it(copy):
    changed = _changed(
        copy, "tasks/core/training/losses.py", "img @ txt.T / tau", "txt @ img.T / tau"
    )
    assert changed == {"train_experts", "select_coresets", "distill", "evaluate"}


def test_the_matching_loss_concerns_distillation_alone(copy):
    assert _changed(
        copy,
        "tasks/core/distillation/segments.py",
        "distance / lengths[group] for",
        "distance / (lengths[group] + 1) for",
    ) == {"distill"}


def test_decoding_concerns_preparation_alone(copy):
    assert _changed(
        copy, "tasks/core/data/preparation.py", "def prepare(", "X = 1\n\n\ndef prepare("
    ) == {"prepare_data"}
