"""Weights and normalisations that make a network say nothing end with one message, and no table."""

import pytest
from safetensors.torch import load_file, save_file

from tasks.embed_captions import embed_captions
from tasks.prepare_data import prepare_data
from tasks.settings import steps
from tasks.train_experts import build_start
from tests.store.test_pulled import _params, _write_bert, _write_raw, _write_weights

NFNET, BERT = "raw/nfnet.safetensors", "raw/bert/model.safetensors"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    _write_raw(folder / "raw/data")
    _write_weights(folder / NFNET)
    _write_bert(folder / "raw/bert")
    return folder


@pytest.fixture
def prepared(raw, monkeypatch):
    monkeypatch.chdir(raw)
    return prepare_data.fn(steps.preparation(_params()))


def _fill(file, value):
    before = file.read_bytes()
    save_file(
        {name: tensor.fill_(value) for name, tensor in load_file(file).items()},
        file,
        metadata={"format": "pt"},
    )
    return before


@pytest.mark.parametrize("trainable", ["full", "text_head"])
@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "weights of .* are zero"), (float("nan"), "non-finite weights")]
)
def test_a_start_of_weights_that_say_nothing_is_refused(prepared, raw, trainable, value, message):
    chosen = _params(f"model.trainable={trainable}")
    before = _fill(raw / NFNET, value)
    with pytest.raises(ValueError, match=rf"{message}.*change model\.options"):
        build_start.fn(steps.start(chosen), prepared)
    (raw / NFNET).write_bytes(before)
    assert not (raw / "data/experts").exists()


def test_a_start_of_intact_weights_is_made(prepared, raw):
    for trainable in ("full", "text_head"):
        work = steps.start(_params(f"model.trainable={trainable}"))
        assert build_start.fn(work, prepared).folder.is_dir()


@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "1 different vectors for 6"), (float("nan"), "non-finite")]
)
def test_captions_under_weights_that_say_nothing_are_refused(prepared, raw, value, message):
    before = _fill(raw / BERT, value)
    with pytest.raises(ValueError, match=rf"text encoder transformers gave {message}"):
        chosen = _params("embed_captions.options.pooling=mean")
        embed_captions.fn(steps.embedding(chosen), prepared)
    (raw / BERT).write_bytes(before)
    assert not (raw / "data/caption_embeddings").exists()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("std", ".inf"),
        ("std", ".nan"),
        ("std", "-0.5"),
        ("std", "0.0"),
        ("std", "58.4"),
        ("mean", "1.0e+30"),
        ("mean", ".nan"),
        ("mean", "123.7"),
    ],
)
def test_a_normalisation_that_flattens_images_is_refused_before_any_work(part, value):
    with pytest.raises(ValueError, match=rf"model\.options\.{part}.*received .*0\.\.255"):
        _params(f"model.options.{part}=[{value}, 0.5, 0.5]")
