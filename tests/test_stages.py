"""Stages of the tiny workspace: kill -9 and go on to the same bytes, bad input before any training,
nothing left behind.
"""

import json

import pytest
import torch

pytestmark = pytest.mark.services

# The stage tasks called as plain functions: no Prefect server, whose start is no part of what is
# tested here.
PLAIN = """
import sys
from tasks import distill, embed_captions, prepare_data, train_experts
from tasks.keys import Inputs
from tasks.settings import params, steps
from tasks.settings.sets import SetName
p = params.load(sys.argv[2:])
prepared = prepare_data.prepare_data.fn(steps.preparation(p))
embeddings = embed_captions.embed_captions.fn(steps.embedding(p), prepared)
start = train_experts.build_start.fn(steps.start(p), prepared)
inputs = Inputs(prepared, embeddings, start)
numbers = range(p.train_experts.num_experts)
experts = [train_experts.train_expert.fn(steps.training(p), inputs, number) for number in numbers]
if sys.argv[1] == "distill":
    work = steps.distillation(p, SetName("bi_trajectory", p.general.budgets[0]))
    distill.distill.fn(work, inputs, experts)
"""
LONG = (
    "distill.options.bi_trajectory.iterations=40",
    "distill.options.bi_trajectory.checkpoint_every=2",
    "train_experts.num_epochs=12",
)


@pytest.fixture
def reference(tmp_path_factory):
    from tests.workspace import TINY, make_workspace

    found = make_workspace(tmp_path_factory.mktemp("reference") / "copy", (*TINY, *LONG))
    found.program(PLAIN, "distill")
    return found.digests()


def test_killed_experts_and_distillation_go_on_to_the_same_bytes(workspace, reference):
    workspace.set(*LONG)
    data = workspace.folder / "data"

    def has_checkpoint():
        return any(data.glob(".work/*/.checkpoint.safetensors"))

    def has_two_experts():
        return has_checkpoint() and len(list(data.glob("experts/toy/*/expert_*"))) == 2

    assert workspace.kill_when(has_checkpoint, "python", "-c", PLAIN, "train_experts")
    assert not list(data.glob("experts/toy/*/expert_000")) and has_checkpoint()
    assert workspace.kill_when(has_two_experts, "python", "-c", PLAIN, "distill")
    assert not list(data.glob("distilled/toy/*/*")) and has_checkpoint()
    workspace.program(PLAIN, "distill")
    assert workspace.digests() == reference
    assert not list(data.glob(".work/*"))


def test_non_finite_embeddings_stop_before_any_training(workspace, tmp_path):
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle"])
    )
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = BertModel(config)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    options = {
        "name": "broken",
        "weights": str(folder),
        "pooling": "cls",
        "is_normalised": False,
        "max_tokens": 16,
        "batch_size": 32,
        "dtype": "float32",
    }
    settings = [
        "--set",
        "embed_captions.text_encoder=transformers",
        "--set",
        f"embed_captions.options={json.dumps(options)}",
    ]
    done = workspace.flow("train_experts", *settings, check=False)
    assert done.returncode == 2
    assert (
        "non-finite embeddings for" in done.stderr
        and "change embed_captions.options" in done.stderr
    )
    data = workspace.folder / "data"
    assert not list(data.glob("caption_embeddings/toy/*")) and not list(
        data.glob("experts/**/manifest.json")
    )
    assert not list(data.glob(".work/*"))


def test_more_pairs_than_images_stop_before_any_training(workspace):
    done = workspace.program(PLAIN, "distill", "budgets=[4, 49]", check=False)
    assert done.returncode == 1
    assert "budgets: received 49 pairs, but the training split of toy has 48 images" in done.stderr
    parts = "distill.matching.parts=4"
    done = workspace.program(PLAIN, "distill", parts, check=False)
    assert done.returncode == 1 and "by bi_trajectory; it starts from 64 images" in done.stderr
    assert not (workspace.folder / "data" / "experts").exists()
