"""The card tells what is known and nothing else, and its program scores a set as the pipeline does,
in a process that cannot import this project.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from torch.nn import functional

from tasks.core.evaluation.statistics import describe
from tasks.core.foundations.seeding import make_generator
from tasks.core.training.similarity import similarity_of
from tasks.core.training.student_losses import HARD, SOFT, soft_contrastive
from tasks.exchange import card
from tasks.exchange.export import Choice, export
from tasks.exchange.pictures import Cost
from tasks.exchange.source import open_source
from tests.workspace import environment

# The environment holds this project in editable form: names of ours are refused, and proven to be
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tasks", "flows", "tests"):
            raise ModuleNotFoundError(f"{name} is not for this process")
sys.meta_path.insert(0, Blocker())
try:
    import tasks
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("this process can import the project")
"""


def program(place):
    """The last block of the card."""
    return re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), re.S)[-1]


def run_alone(place, code=None):
    """The mean recall that a program prints; by default that of the card."""
    code = code or program(place)
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{BLOCKED}\nexec({code!r})"],
        cwd=place,
        env={**environment(), "HF_HOME": str(place.parent / "hub")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def exported(chosen, name, place, layout="folder", *, test=True, licence="unknown"):
    source = open_source(chosen, name)
    export(source, place, Choice(layout, "png", test, licence, "unknown"))
    return source


@pytest.mark.parametrize(
    ("fixture", "name", "layout"),
    [
        ("made", "herding-4", "huggingface"),
        ("made", "lors-4", "webdataset"),
        ("made_heads", "herding-4", "folder"),
        ("made_heads", "lors-4", "folder"),
    ],
)
def test_the_cards_program_scores_as_the_pipeline_does(fixture, name, layout, request, tmp_path):
    folder, chosen = request.getfixturevalue(fixture)
    with contextlib.chdir(folder):
        source = exported(chosen, name, tmp_path / "out", layout)
        ours = describe(score["mean_recall"] for score in source.scores()).mean
    assert run_alone(tmp_path / "out") == pytest.approx(ours, abs=1.0)


def test_what_differs_for_distilled_images_is_what_8_bits_cost(inside, tmp_path, capsys):
    source, place = exported(inside, "bi_trajectory-4", tmp_path / "out"), tmp_path / "out"
    ours = describe(score["mean_recall"] for score in source.scores()).mean
    pixels = (source.pairs.images.permute(0, 2, 3, 1) * 0.5 + 0.5) * 255
    code = program(place).replace("seen, tested = torch.tensor(images)", "seen, tested = pixels")
    with contextlib.chdir(place):
        exec(code, {"pixels": pixels})
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(ours)


@pytest.mark.parametrize("layout", ["huggingface", "webdataset", "folder"])
def test_every_program_of_a_card_has_at_most_30_lines(layout, inside, tmp_path):
    source = exported(inside, "lors-4", tmp_path / "out", layout)
    facts = json.loads((tmp_path / "out/set.json").read_text())
    choice = Choice(layout, "png", True, "unknown", "unknown")
    for loss, trainable in itertools.product((*HARD, *SOFT), ("full", "heads", "text_head")):
        facts["loss"], facts["model"]["trainable"] = loss, trainable
        text = card.render(source, facts, choice, "0")
        code = re.findall(r"```python\n(.*?)```", text, re.S)[-1]
        compile(code, "card", "exec")
        assert len(code.splitlines()) <= 30


@pytest.mark.parametrize("loss", [*HARD, *SOFT])
def test_the_loss_in_a_card_is_the_loss_of_the_set(loss, inside, tmp_path):
    source = exported(inside, "lors-4", tmp_path / "out")
    facts = json.loads((tmp_path / "out/set.json").read_text())
    facts["loss"] = loss
    text = card.render(source, facts, Choice("folder", "png", True, "a", "b"), "0")
    lines = re.search(r"            z = .*\n((?:.*\n)*?)            optimiser", text)[1]
    code = "\n".join(line.strip() for line in lines.splitlines())
    rank, alpha = source.pairs.similarity.left.shape[1], source.pairs.similarity.alpha
    img, txt = (
        functional.normalize(torch.randn(7, 5, generator=make_generator(seed)), dim=1)
        for seed in (1, 2)
    )
    stored = {
        f"sim_{part}": torch.rand(7, rank, generator=make_generator(number))
        for number, part in enumerate(("left", "right"))
    }
    stored["sim_diagonal"] = torch.rand(7, generator=make_generator(9))
    names = {
        "torch": torch,
        "F": functional,
        "z": img @ txt.T / 0.07,
        "pairs": stored,
        "rows": torch.arange(7),
    }
    exec(code, names)
    if loss in HARD:
        ours = HARD[loss](img, txt, tau=0.07)
    else:
        ours = soft_contrastive(loss, img, txt, similarity_of(stored, alpha), tau=0.07)
    assert float(names["loss"]) == pytest.approx(float(ours), rel=1e-5)


def test_the_header_is_what_the_hub_reads(inside, tmp_path):
    exported(inside, "herding-4", tmp_path / "out", "huggingface", licence="cc-by-4.0")
    text = (tmp_path / "out/README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["pretty_name"] == "toy coreset, herding-4"
    assert header["license"] == "cc-by-4.0" and header["size_categories"] == ["n<1K"]
    (path,) = (entry["path"] for entry in header["configs"][0]["data_files"])
    assert (tmp_path / "out" / path).is_file()
    assert text.isascii()


@pytest.mark.parametrize(
    ("num_images", "size"),
    [
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (1_000_000, "1M<n<10M"),
    ],
)
def test_every_size_has_a_class(num_images, size, inside, tmp_path):
    source = exported(inside, "bi_trajectory-4", tmp_path / "out")
    facts = json.loads((tmp_path / "out/set.json").read_text()) | {"num_images": num_images}
    text = card.render(source, facts, Choice("folder", "png", True, "a", "b"), "0")
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["size_categories"] == [size]
    assert header["pretty_name"] == "toy distilled, bi_trajectory-4"


def test_a_card_tells_scores_with_interval_and_protocol_and_the_cost_of_8_bits(inside, tmp_path):
    source = exported(inside, "bi_trajectory-4", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    found = describe(score["mean_recall"] for score in source.scores())
    low, high = found.interval
    assert f"| mean recall | {found.mean:.2f} | {low:.2f} to {high:.2f} |" in text
    assert "Protocol `strict`" in text and "mean of 2 students" in text
    assert "Licence of the source: unknown" in text
    for part in ("own", "prepared", "embeddings"):
        assert getattr(source, part).manifest.digest in text
    assert source.start.manifest.files["encoder.safetensors"] in text
    cost = json.loads((tmp_path / "out/set.json").read_text())["rounding"]
    assert Cost(**cost).in_words in text and f"{cost['num_values']:,} values lie" in text


def test_a_card_tells_what_words_are_worth(inside, tmp_path):
    source = exported(inside, "bi_trajectory-4", tmp_path / "out")
    told = describe(score["mean_recall"] for score in source.scores_in_words())
    text = (tmp_path / "out/README.md").read_text()
    _, _, words = text.partition("With the embedding of each `nearest_sentence`")
    assert f"| mean recall | {told.mean:.2f} |" in words
    assert "2 students of the same recipe score this" in words
    for name in ("herding-4", "lors-4"):  # real texts, and a set that was not decoded
        exported(inside, name, tmp_path / name)
        assert "nearest_sentence` in place" not in (tmp_path / name / "README.md").read_text()


def test_a_set_without_scores_says_so(made, tmp_path, monkeypatch):
    folder, chosen = made
    shutil.copytree(folder / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data/scores")
    monkeypatch.chdir(tmp_path)
    exported(chosen, "herding-4", tmp_path / "out")
    assert "This set was not scored." in (tmp_path / "out/README.md").read_text()


def test_a_card_without_a_program_says_why(inside, tmp_path):
    exported(inside, "herding-4", tmp_path / "out", test=False)
    text = (tmp_path / "out/README.md").read_text()
    assert "has no program that trains and scores: it reads the test split" in text
    assert not list((tmp_path / "out").glob("test*")) and "encoder.safetensors" not in {
        path.name for path in (tmp_path / "out").iterdir()
    }
    facts = {"image_encoder": {"name": "torchvision"}, "model": {"trainable": "full"}}
    assert "encoders of timm" in card.missing(facts, is_test_included=True)
    facts = {"image_encoder": {"name": "timm"}, "model": {"trainable": "lora"}}
    assert "trains `lora`" in card.missing(facts, is_test_included=True)
