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
from tasks.store import artifacts, caching
from tasks.store.artifacts import Key
from tests.workspace import Workspace

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from tasks.stages import STAGES
from tasks.store import caching
found = {name: caching.code_digest(stage.code) for name, stage in STAGES.items()}
heavy = [name for name in ("torch", "pandas") if name in sys.modules]
print(json.dumps({**found, "imported": heavy}))
"""
# The keys themselves: the stage tasks make them, and nothing is built.
KEYS = """
import json
from tasks import distill, train_experts
from tasks.keys import Inputs
from tasks.settings import params, steps
from tasks.store import caching
from tasks.store.artifacts import Ref
found = {}
ref = Ref("", "")
caching.obtain = lambda folder, key, *more, **how: found.setdefault(str(folder), key.digest) and ref
methods = "methods.distillers=[bi_trajectory, lors, meta_model]"
chosen = params.load(["profile=toy", methods])
train_experts.build_start.fn(steps.start(chosen), ref)
inputs = Inputs(ref, ref, ref)
train_experts.train_expert.fn(steps.training(chosen), inputs, 0)
for name in chosen.sets:
    if name.method in chosen.distillers and name.num_pairs == chosen.general.budgets[0]:
        distill.distill.fn(steps.distillation(chosen, name), inputs, [ref])
print(json.dumps(found))
"""
FIELD = "\n    more: int = 0\n"
EDITS = {
    "a field of the report": (
        "tasks/settings/validation.py",
        '    gallery_pairs: Annotated[int, Range(ge=1, le=200, unit="pairs")]\n',
        FIELD,
    ),
    "a field of the recipes": (
        "tasks/core/evaluation/students.py",
        "    num_validations: Count\n",
        FIELD,
    ),
    "a soft loss": (
        "tasks/core/training/student_losses.py",
        '"wbce": wbce}',
        ' | {"third": wbce}',
    ),
    "the share of memory": (
        "tasks/core/distillation/buffer.py",
        "_available_host_bytes() // 4",
        " * 2",
    ),
    "the resize of students": ("tasks/core/evaluation/transfer.py", "antialias=True", " and False"),
    "the batch of opened pairs": ("tasks/student_models.py", "BATCH_SIZE = 64", " * 2"),
    "a field of Similarity": ("tasks/core/training/pair_set.py", "    alpha: float\n", FIELD),
}


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(
        ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


@pytest.fixture(scope="module")
def keys():
    """Keys of the toy's experts and distilled sets, by folder, made by the code as it is."""
    return _printed(ROOT)


def _printed(folder):
    return json.loads(Workspace(folder).program(KEYS).stdout)


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


def test_the_digest_of_code_imports_none_of_it():
    assert _digests(ROOT)["imported"] == []


def test_shared_mathematics_changes_the_keys_of_what_uses_it(copy):
    changed = _changed(
        copy, "tasks/core/training/losses.py", "img_BD @ txt_BD.T / tau", "txt_BD @ img_BD.T / tau"
    )
    assert changed == {"train_experts", "select_coresets", "distill", "evaluate"}


def test_the_matching_loss_concerns_distillation_alone(copy):
    assert _changed(
        copy,
        "tasks/core/distillation/segments.py",
        "_sum(found) / _sum(self.lengths)",
        "_sum(found) / (_sum(self.lengths) + 1)",
    ) == {"distill"}


def test_decoding_concerns_preparation_alone(copy):
    assert _changed(
        copy, "tasks/core/data/preparation.py", "def prepare(", "X = 1\n\n\ndef prepare("
    ) == {"prepare_data"}


@pytest.mark.parametrize("edit", EDITS)
def test_no_expert_is_trained_again_for_what_it_does_not_use(copy, keys, edit):
    file, text, more = EDITS[edit]
    shutil.copy(ROOT / "params.yaml", copy)
    shutil.copy(ROOT / "presets.yaml", copy)
    path = copy / file
    assert path.read_text().count(text) == 1
    path.write_text(path.read_text().replace(text, text + more))
    after = _printed(copy)
    changed = {Path(place).parts[1] for place in keys if after[place] != keys[place]}
    assert "experts" not in changed and after.keys() == keys.keys()
    is_beside_distillation = edit in ("a field of the report", "a field of the recipes")
    assert not (is_beside_distillation and changed), changed
    # So that no edit is invisible to all keys
    is_below_distillation = file.startswith(
        (
            "tasks/core/distillation",
            "tasks/core/training/pair_set",
            "tasks/core/training/student_losses",
        )
    )
    assert not is_below_distillation or changed == {"distilled"}


def test_who_only_looks_does_not_wait_for_a_build_that_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(caching, "LOOK_SECONDS", 0.1)
    key, folder = Key("report", {}, {}, ""), Path("data/prepared/a")
    with (
        artifacts.lock(folder),
        caching.looking(),
        pytest.raises(caching.NotMade, match="another run makes it"),
    ):
        caching.obtain(folder, key, lambda work: {})
