"""Artifacts that `dvc pull` brings are used without the raw data and weights they were made from:
with a warning, or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from tasks import preflight
from tasks.embed_captions import embed_captions
from tasks.keys import Inputs
from tasks.prepare_data import prepare_data
from tasks.progress import reporter
from tasks.settings import params, steps
from tasks.settings.params import Params
from tasks.store import caching, raw_files, travel
from tasks.store.remote import Remote
from tasks.train_experts import build_start, train_expert
from tests.workspace import ROOT, TINY

SPLITS = ("train", "train", "train", "train", "val", "test")


def _write_raw(folder):
    """A Karpathy dataset of six pictures."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for number, split in enumerate(SPLITS):
        Image.new("RGB", (40, 36), (number * 40, 90, 200)).save(folder / "images" / f"{number}.png")
        entries.append(
            {
                "filename": f"{number}.png",
                "split": split,
                "sentences": [{"raw": f"picture number {number}"}],
            }
        )
    (folder / "dataset.json").write_text(json.dumps({"images": entries}))


def _write_weights(file):
    from tasks.core.foundations.tensor_files import save_tensors
    from tasks.core.networks.image_encoders import timm

    config = timm.Config(name="test_nfnet", weights="random", kwargs={}, mean=None, std=None)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(file, timm.build(config, seed=1).module.state_dict())


def _write_bert(folder):
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "picture", "number", *"012345"])
    )
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(
        BertConfig(
            vocab_size=13,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    ).save_pretrained(folder)


def _params(*more: str) -> Params:
    raw = {
        "path": "raw/data",
        "annotations": "dataset.json",
        "images": ["images"],
        "restval_is_train": False,
    }
    bert = {
        "name": "bert",
        "weights": "raw/bert",
        "pooling": "cls",
        "is_normalised": False,
        "max_tokens": 8,
        "batch_size": 4,
        "dtype": "float32",
    }
    image = {
        "name": "test_nfnet",
        "weights": "raw/nfnet.safetensors",
        "kwargs": {},
        "mean": None,
        "std": None,
    }
    settings = (
        "prepare_data.dataset=karpathy",
        f"prepare_data.options={json.dumps(raw)}",
        "embed_captions.text_encoder=transformers",
    )
    options = (
        f"embed_captions.options={json.dumps(bert)}",
        f"model.options={json.dumps(image)}",
        "train_experts.num_experts=1",
    )
    kept = [setting for setting in TINY if not setting.startswith("prepare_data.options")]
    return params.load(
        [*kept, *settings, *options, "train_experts.batch_size=2", *more], path=ROOT / "params.yaml"
    )


def _make(chosen: Params, **how: bool):
    prepared = prepare_data.fn(steps.preparation(chosen), **how)
    embeddings = embed_captions.fn(steps.embedding(chosen), prepared, **how)
    start = build_start.fn(steps.start(chosen), prepared, **how)
    inputs = Inputs(prepared, embeddings, start)
    expert = train_expert.fn(steps.training(chosen), inputs, 0, **how)
    return [prepared, embeddings, start, expert]


@pytest.fixture
def pulled(tmp_path, monkeypatch):
    """A folder with the artifacts of another one, and neither raw data nor weights."""
    monkeypatch.chdir(tmp_path)
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "there")
    _write_raw(tmp_path / "there/raw/data")
    _write_weights(tmp_path / "there/raw/nfnet.safetensors")
    _write_bert(tmp_path / "there/raw/bert")
    made = _make(_params())
    shutil.copytree("data", tmp_path / "here/data")
    monkeypatch.chdir(tmp_path / "here")
    return made


def test_what_was_pulled_is_used_with_warnings_that_name_what_is_missing(pulled, caplog):
    with caplog.at_level(logging.WARNING, logger="vl_distillery"):
        found = _make(_params())
    assert all(ref.is_cached for ref in found)
    assert [ref.digest for ref in found] == [ref.digest for ref in pulled]
    warnings = [
        record.getMessage()
        for record in caplog.records
        if "cannot be compared" in record.getMessage()
    ]
    manifests = [json.loads((ref.folder / "manifest.json").read_text()) for ref in pulled[:3]]
    assert len(warnings) == 3
    for warning, place, manifest in zip(
        warnings, ("raw/data", "raw/bert", "raw/nfnet.safetensors"), manifests, strict=True
    ):
        unseen = [digest for name, digest in manifest["inputs"].items() if name != "prepared"]
        assert place in warning and unseen and all(digest in warning for digest in unseen)


@pytest.mark.parametrize("change", ["other parameters", "damage", "force"])
def test_what_was_pulled_cannot_stand_in_for_something_else(pulled, change):
    chosen = _params("prepare_data.image_size=48") if change == "other parameters" else _params()
    if change == "damage":
        (pulled[0].folder / "captions.parquet").write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match="raw/data"):
        _make(chosen, force=change == "force")
    assert not list((pulled[0].folder.parents[1] / ".work").glob("*"))


def test_raw_data_that_is_there_is_checked(pulled, tmp_path):
    shutil.copytree(tmp_path / "there/raw/bert", tmp_path / "here/raw/bert")
    shutil.copy(tmp_path / "there/raw/nfnet.safetensors", tmp_path / "here/raw")
    _write_raw(tmp_path / "here/raw/data")
    Image.new("RGB", (40, 36), (1, 2, 3)).save(tmp_path / "here/raw/data/images/0.png")
    assert [ref.is_cached for ref in _make(_params())] == [False, False, True, False]


def test_a_copy_of_the_raw_data_with_other_times_is_the_same_and_each_file_is_read_once(
    pulled, tmp_path
):
    shutil.copytree(tmp_path / "there/raw", tmp_path / "here/raw")
    for path in (tmp_path / "here/raw").rglob("*.png"):
        os.utime(path, (1, 1))
    assert all(ref.is_cached for ref in _make(_params()))
    picture = tmp_path / "here/raw/data/images/0.png"
    with raw_files.remembered() as digest_of:
        before = digest_of(picture)
        picture.write_bytes(b"x" * picture.stat().st_size)
        os.utime(picture, (1, 1))
        assert digest_of(picture) == before  # same size and time: not read again
        os.utime(picture, (2, 2))
        assert digest_of(picture) != before


def test_a_store_has_what_was_made_from_raw_data_and_weights_elsewhere(
    pulled, tmp_path, monkeypatch
):
    """Neither raw data nor weights nor artifacts are here: a run begins, and pulls all of it."""
    remote, chosen = Remote(str(tmp_path / "store")), _params()
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    with travel.through(remote, reporter):
        _make(chosen)
    monkeypatch.chdir(tmp_path / "here")
    shutil.rmtree("data")
    with pytest.raises(FileNotFoundError, match="raw/"):
        preflight.check(chosen, "train_experts")
    with travel.through(remote, reporter):
        preflight.check(chosen, "train_experts")
        found = _make(chosen)
    assert all(ref.is_cached for ref in found)
    assert [ref.digest for ref in found] == [ref.digest for ref in pulled]


def test_looking_makes_nothing(pulled):
    chosen = _params()
    with caching.looking():
        assert all(ref.is_cached for ref in _make(chosen))
        with pytest.raises(caching.NotMade):
            _make(replace(chosen, train_experts=replace(chosen.train_experts, num_epochs=4)))


def test_weights_of_another_name_are_not_stood_in_for(pulled):
    with pytest.raises(
        FileNotFoundError,
        match=r"other\.safetensors is not there.*not made from other\.safetensors",
    ):
        _make(_params("model.options.weights=raw/other.safetensors"))
