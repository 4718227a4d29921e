"""Embeddings that say nothing about their inputs are refused with the known cause, and whatever
tells its inputs apart passes.
"""

import pytest
import torch
from torch import nn

from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.image_encoders import timm
from tasks.core.networks.informative import check_informative, check_on_noise, check_weights
from tests.core.hypergradient.small_problem import make_encoder
from tests.core.networks.test_encoders_named import CAPTIONS, _clip, _embed, save_bert

HOW = {"what": "the encoder x", "causes": "zero weights", "where": "change y"}


def _rows(count, width=7):
    return torch.randn(count, width, generator=make_generator(0, count))


def _check(rows, inputs=None):
    check_informative(rows, (inputs or range(len(rows))).__getitem__, **HOW)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted(value):
    rows = _rows(5)
    rows[3, 1] = value
    with pytest.raises(ValueError, match=r"encoder x gave non-finite .* 1 of 5 .* number 3; .*y"):
        _check(rows)


@pytest.mark.parametrize("count", [2, 3, 40, 3000])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_vector_for_different_inputs_is_refused(count, value):
    with pytest.raises(ValueError, match=r"1 different vectors for .* zero weights; change y"):
        _check(torch.full((count, 7), value))


def test_vectors_that_depend_on_little_of_the_input_are_refused():
    lengths = _rows(20)[torch.arange(400) % 20]
    with pytest.raises(ValueError, match="20 different vectors for 400 different inputs"):
        _check(lengths + 1e-7 * _rows(400))  # rounding in other batches makes no difference
    line = torch.arange(64)[:, None] * _rows(1) + 3.0
    with pytest.raises(ValueError, match="vectors of 1 directions for 64 different inputs"):
        _check(line)


def test_what_tells_inputs_apart_passes():
    for count in (0, 1, 2, 3, 31, 32, 3000):
        _check(_rows(count))
    _check(_rows(40, 2))
    _check(1.0 + 1e-3 * _rows(40))
    _check(torch.stack([_rows(1)[0], _rows(1)[0], _rows(2)[0]]), ["a dog", "A dog", "a cat"])
    _check(torch.ones(9, 7), ["the same caption"] * 9)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_weights_that_are_all_zero_or_not_finite_are_refused(value):
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    check_weights(module, what="x", where="y")
    with torch.no_grad():
        for weight in module[0].parameters():
            weight.fill_(value)
    with pytest.raises(ValueError, match=r"zero|non-finite weights in 2 of 6 tensors, first 0\."):
        check_weights(module, what="x", where="y")


def test_an_image_encoder_is_asked_about_noise():
    encoder = make_encoder()
    check_on_noise(encoder, 9, device="cpu", **HOW)
    flat = ImageEncoder(encoder.module, encoder.out_dim, (0.5,) * 3, (float("inf"),) * 3)
    with pytest.raises(ValueError, match="1 different vectors for 8 different inputs"):
        check_on_noise(flat, 9, device="cpu", **HOW)


@pytest.mark.parametrize("name", ["test_nfnet", "test_vit", "resnet18", "mobilenetv3_small_050"])
def test_untrained_networks_tell_pictures_apart(name):
    size = 160 if name == "test_vit" else 32
    config = timm.Config(name=name, weights="random", kwargs={}, mean=None, std=None)
    encoder = timm.build(config, seed=0)
    check_weights(encoder.module, what="x", where="y")
    check_on_noise(encoder, size, device="cpu", **HOW)


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_a_text_encoder_without_tokenizer_files_is_refused(tmp_path, kind):
    folder = save_bert(tmp_path, False) if kind == "bert" else _clip(tmp_path, "CLIPModel")
    assert _embed(folder, "mean").shape[0] == len(CAPTIONS)
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.name.startswith(("config", "model")):
            path.unlink()
    with pytest.raises(ValueError, match=r"tokenizer of tiny knows no word.*tokenizer\.json"):
        _embed(folder, "mean")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_token_of_a_causal_encoder_is_refused(tmp_path, dtype):
    folder = _clip(tmp_path, "CLIPModel")
    with pytest.raises(ValueError, match=r"`cls` .* sees no other.*allowed are `eos`, `mean`"):
        _embed(folder, "cls", dtype=dtype)
    assert len(_embed(folder, "eos", dtype=dtype)) == len(CAPTIONS)
