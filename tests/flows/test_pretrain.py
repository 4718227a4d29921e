"""pretrain as a command on a tiny toy: it writes weights that profiles read, and goes on where it
was killed.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flows import cli
from tasks.core.foundations.checkpoints import NAME
from tasks.core.foundations.file_names import IMAGES
from tasks.core.foundations.section import NoOptions
from tasks.core.foundations.tensor_files import map_tensor
from tasks.core.networks.encoders import encode_images
from tasks.core.training.pretraining import PretrainSection
from tasks.models import ENCODER
from tasks.pretrain import _put
from tasks.settings import params, pretraining, steps
from tasks.settings.validation import Plugin
from tasks.store import artifacts, disk
from tasks.store.artifacts import Ref, file_digest
from tasks.train_experts import build_start
from tests.workspace import ROOT, SETTINGS, make_workspace

WEIGHTS = "raw/weights/vit.safetensors"
MEAN = "mean: [0.4, 0.5, 0.6], std: null"
STUDENT = f"model.options={{name: test_vit, weights: {WEIGHTS}, kwargs: {{img_size: 32}}, {MEAN}}}"
HOW = ("--set", STUDENT, "--set", "pretrain.batch_size=16", "--set", "pretrain.embed_dim=8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace in which an encoder was pretrained, and what the command printed."""
    workspace = make_workspace(tmp_path_factory.mktemp("pretrain") / "copy")
    return workspace, workspace.flow("pretrain", *HOW, "--epochs", "4")


def test_it_writes_weights_and_says_what_made_them_and_how_good_they_are(made):
    workspace, done = made
    facts = json.loads((workspace.folder / f"{WEIGHTS}.json").read_text())
    assert facts["sha256"] == file_digest(workspace.folder / WEIGHTS)
    assert (facts["num_epochs"], facts["num_steps"], facts["num_images"]) == (4, 12, 48)
    assert len(facts["losses"]) == len(facts["val_losses"]) == 4
    assert facts["teacher"]["options"]["name"] == "test_nfnet"
    assert facts["encoder"]["options"]["weights"] == "random"
    own, teachers = (facts["val_mean_recall"][who] for who in ("encoder", "teacher"))
    assert len(own) == len(teachers) == 3 and all(0.0 <= value <= 100.0 for value in own)
    assert set(facts["inputs"]) == {"prepared", "embeddings"}
    assert f"pretrain: {WEIGHTS}, 4 epochs in " in done.stdout
    assert f"on its features: {sum(own) / 3:.1f}, on those of test_nfnet:" in done.stdout
    assert sorted(path.name for path in (workspace.folder / WEIGHTS).parent.iterdir()) == [
        "vit.safetensors",
        "vit.safetensors.json",
    ]
    assert not list((workspace.folder / "data/.work").iterdir())


def test_a_profile_reads_the_file_as_any_other_weights(made, monkeypatch):
    workspace, _ = made
    monkeypatch.chdir(workspace.folder)
    chosen = params.load([STUDENT])
    prepared = Ref("data/prepared/toy", artifacts.verify(Path("data/prepared/toy")).digest)
    start = build_start(steps.start(chosen), prepared)
    written, read = load_file(WEIGHTS), load_file(start.folder / ENCODER)
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in written)
    plugin = chosen.image_encoder
    encoder = plugin.module.build(plugin.config, seed=5)
    images = map_tensor(prepared.folder / IMAGES, "images")[:5]
    by_path = encode_images(encoder, images, device="cpu")
    by_state = plugin.module.rebuild(plugin.config, written)
    assert encoder.mean == (0.4, 0.5, 0.6)
    assert torch.equal(by_path, encode_images(by_state, images, device="cpu"))


def test_a_killed_run_goes_on_to_the_same_bytes_and_a_target_is_never_replaced(made):
    workspace, _ = made
    first = (workspace.folder / WEIGHTS).read_bytes()
    again = workspace.flow("pretrain", *HOW, "--epochs", "4", check=False)
    assert again.returncode == 2 and again.stdout == ""
    assert f"--to: received {WEIGHTS}, and {WEIGHTS} exists" in again.stderr
    often = (*HOW, "--set", "pretrain.checkpoint_every=1", "--epochs", "4", "--to", "b.safetensors")
    work = workspace.folder / "data/.work"
    was_running = workspace.kill_when(
        lambda: list(work.glob(f"*/{NAME}.before")), "python", "-m", "flows.pretrain", *often
    )
    assert was_running and not (workspace.folder / "b.safetensors").exists()
    workspace.flow("pretrain", *often)
    assert (workspace.folder / "b.safetensors").read_bytes() == first
    assert not list(work.iterdir()) and not list(workspace.folder.glob(".partial*"))


def test_a_network_learns_from_another_one_of_its_kind(made):
    workspace, _ = made
    second = ("--set", "model.options.weights=second.safetensors", "--epochs", "1")
    # Said from the top, it holds for the teacher; the second setting is the student's alone
    workspace.flow("pretrain", "--set", f"profiles.toy.{STUDENT}", *second)
    facts = json.loads((workspace.folder / "second.safetensors.json").read_text())
    assert facts["inputs"]["vit.safetensors"] == file_digest(workspace.folder / WEIGHTS)
    first = json.loads((workspace.folder / f"{WEIGHTS}.json").read_text())["val_mean_recall"]
    found = facts["val_mean_recall"]
    assert found["teacher"] == first["encoder"] != found["encoder"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the settings of the repository, and nothing else."""
    for name in SETTINGS:
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RANDOM = "model.options.weights=random"
WRONG = [
    ({"teacher": "toi"}, r"--teacher toi: .*unknown profile 'toi' \(did you mean 'toy'\?\)"),
    ({"settings": []}, r"--teacher: received toy, with test_nfnet, which is the network to be"),
    ({"settings": [STUDENT, RANDOM]}, r"--to: received nothing, and model\.options\.weights is 'r"),
    ({"to": "vit.pt"}, r"--to: received 'vit\.pt'; allowed is a name that ends in \.safetensors"),
    ({"to": "taken.safetensors"}, r"received taken\.safetensors, and taken\.safetensors exists"),
    ({"to": "noted.safetensors"}, r"received noted\.safetensors, and noted\.safetensors\.json ex"),
    ({"to": "gone.safetensors"}, r"received gone\.safetensors, and gone\.safetensors exists"),
    ({"to": "params.yaml/a/b.safetensors"}, r"and params\.yaml is no folder; allowed is a file in"),
    ({"epochs": 0}, r"pretrain\.epochs: received 0, allowed is >= 1"),
    ({"epochs": None}, r"received epochs None and minutes None; allowed is one of them"),
    ({"minutes": 3.0}, r"received epochs 1 and minutes 3\.0; allowed is one of them"),
    ({"epochs": None, "minutes": 0.0}, r"pretrain\.minutes: received 0\.0, allowed is > 0 and"),
    ({"epochs": None, "minutes": -2.0}, r"pretrain\.minutes: received -2\.0, allowed is > 0"),
    ({"epochs": None, "minutes": math.inf}, r"pretrain\.minutes: received inf"),
    ({"epochs": None, "minutes": math.nan}, r"pretrain\.minutes: received nan"),
    ({"settings": [STUDENT, "pretrain.lrr=0.1"]}, r"unknown key 'lrr' \(did you mean 'lr'\?\)"),
    ({"settings": [STUDENT, "pretrain.lr=0.0"]}, r"pretrain\.lr: received 0\.0, allowed is > 0"),
    ({"settings": [STUDENT, "pretrain.batch_size=1"]}, r"pretrain\.batch_size: received 1"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_a_user_can_mend_is_one_message(here, changes, message):
    (here / "taken.safetensors").touch()
    (here / "noted.safetensors.json").write_text("5")
    (here / "gone.safetensors").symlink_to("nowhere")
    given = {"settings": [STUDENT], "teacher": None, "to": None, "epochs": 1, "minutes": None}
    with pytest.raises(ValueError, match=message):
        pretraining.load(**{**given, **changes})


def test_the_json_of_a_run_that_was_killed_is_written_again(here):
    (here / "killed.safetensors.json").write_text('{"sha256": "ab"}')
    assert pretraining.load([STUDENT], None, "killed.safetensors", 1, None).target.name


def test_a_full_disk_of_the_target_is_told_as_that_with_the_bytes_that_are_needed(here):
    made, target = here / "weights.safetensors", here / "vit.safetensors"
    made.write_bytes(bytes(2_000_000))
    (here / "weights.safetensors.json").write_text("{}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(disk.Refused, match=r"partial-vit.*: File too large; .* 1,000,000 by"):
            _put(made, here / ".partial-vit.safetensors", target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(here.glob("*vit*")) == []


def test_an_encoder_that_reads_no_weights_is_refused(here):
    plugin = Plugin("image_encoders", "timm", NoOptions())
    with pytest.raises(ValueError, match="received timm, which has no option `weights`"):
        pretraining.untrained(replace(params.load(), image_encoder=plugin))


def test_settings_change_the_values_of_training_and_no_other_command_takes_them(here):
    settings = [STUDENT, "pretrain.lr=0.5", "seed=3", "pretrain.text_weight=0.0"]
    work = pretraining.load(settings, "flickr8k", "other.safetensors", None, 2.5)
    assert (work.section.lr, work.section.text_weight, work.section.minutes) == (0.5, 0.0, 2.5)
    assert work.settings == (STUDENT, "seed=3") and work.params.seed == 3
    assert work.teacher.image_encoder.config.name == "mobilenetv2_100"
    assert (work.params.image_encoder.config.weights, work.target.name) == (
        "random",
        "other.safetensors",
    )
    with pytest.raises(ValueError, match="unknown key 'pretrain'"):
        params.load(["pretrain.lr=0.5"])


def test_help_names_every_value_of_training(capsys):
    with pytest.raises(SystemExit):
        cli.console(["pretrain", "--help"])
    text = capsys.readouterr().out
    names = {field.name for field in fields(PretrainSection)} - {"epochs", "minutes"}
    assert [name for name in names if name not in text] == []


NOWHERE = "prepare_data.options={path: raw/mine, train: [a], val: [b], test: [c], shares: null}"
LARGE = (
    "{name: vit_tiny_patch16_224, weights: random, kwargs: {img_size: 64}, mean: null, std: null}"
)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--set", "prepare_data.dataset=folder", "--set", NOWHERE), "raw/mine"),
        (("--teacher", "flickr8k"), "weights 'raw/weights/mobilenetv2_100"),
        (("--set", f"model.options={LARGE}"), "cannot encode images of 32 x 32 px"),
    ],
)
def test_what_is_not_there_or_does_not_fit_ends_with_one_message(made, options, part):
    workspace, _ = made
    given = (*HOW, "--epochs", "1", "--to", "c.safetensors", *options)
    done = workspace.flow("pretrain", *given, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert part in done.stderr.splitlines()[-1], done.stderr
    assert not (workspace.folder / "c.safetensors").exists()
