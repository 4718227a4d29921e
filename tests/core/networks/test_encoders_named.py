"""The encoders that the project is meant for: image networks by their widths, text networks of each
family from a local folder.
"""

import errno

import pytest
import torch

from tasks.core.distillation.segments import Segment
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import trajectory_gradient
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.encoders import normalise
from tasks.core.networks.functional import FlatModel
from tasks.core.networks.image_encoders import timm as images
from tasks.core.networks.text_encoders import transformers
from tasks.core.networks.weight_files import by_name
from tasks.core.training.losses import info_nce

WORDS = ["a", "the", "red", "dog", "cat", "ball", "runs", "on", "grass", "small"]
CAPTIONS = ["the red dog runs", "a cat", "a small dog runs on the red grass", "ball"]
SIZES = {"vocab_size": 15, "max_position_embeddings": 20}


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("nfnet_l0", 2304), ("nf_resnet50", 2048), ("nf_regnet_b1", 960),
        ("vit_tiny_patch16_224", 192), ("vit_base_patch16_224", 768), ("mobilenetv2_100", 1280),
    ],
)  # fmt: skip
def test_named_networks_give_features_of_their_width(name, width):
    """On the meta device: shapes without weights."""
    config = images.Config(name=name, weights="random", kwargs={}, mean=None, std=None)
    with torch.device("meta"):
        encoder = images.build(config, seed=0)
        assert (
            encoder.module(torch.zeros(2, 3, 224, 224)).shape == (2, encoder.out_dim) == (2, width)
        )


@pytest.mark.parametrize(
    ("name", "kwargs", "pixels"),
    [
        ("nfnet_l0", {}, 32),
        ("nf_resnet50", {}, 32),
        ("nf_regnet_b1", {}, 64),
        ("vit_tiny_patch16_224", {"img_size": 64}, 64),
    ],
)
def test_differences_of_named_networks_trained_whole_equal_second_derivatives_in_float32(
    name, kwargs, pixels
):
    """Random weights; measured errors are 3e-4 to 2e-3."""
    encoder = images.build(
        images.Config(name=name, weights="random", kwargs=kwargs, mean=None, std=None), seed=0
    )
    flat = FlatModel(
        build_dual_encoder(
            encoder.module,
            out_dim=encoder.out_dim,
            text_dim=7,
            trainable="full",
            embed_dim=None,
            dropout=0.1,
            seed=0,
        )
    )
    theta, pictures = (
        flat.flatten(),
        torch.randint(
            0, 256, (4, pixels, pixels, 3), generator=make_generator(0, "x"), dtype=torch.uint8
        ),
    )
    noise = {
        group: torch.randn(value.shape, generator=make_generator(0, group)) / len(value) ** 0.5
        for group, value in theta.items()
    }
    goal = {group: value + 0.02 * value.norm() * noise[group] for group, value in theta.items()}
    inputs = {
        "images": normalise(pictures, encoder.mean, encoder.std),
        "text_embeds": torch.randn(4, 7, generator=make_generator(0, "y")),
    }
    found, exact = (
        trajectory_gradient(
            lambda theta, rows, step: info_nce(
                *flat.call(
                    theta, rows["images"], rows["text_embeds"], make_generator(3, "dropout", step)
                )
            ),
            theta,
            inputs,
            draw_batches(4, 3, 2, make_generator(1)),
            {group: torch.tensor(0.02).log() for group in theta},
            Segment.between(theta, goal).loss,
            engine=engine,
        )
        for engine in ("central_difference", "double_backward")
    )
    for label, expected in exact.inputs.items():
        assert float((found.inputs[label] - expected).norm() / expected.norm()) <= 5e-3, label


def _save(folder, kind, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    return folder


def save_bert(folder, is_distilled):
    from transformers import (
        BertConfig,
        BertModel,
        BertTokenizerFast,
        DistilBertConfig,
        DistilBertModel,
    )

    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n"
    )
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    if is_distilled:
        return _save(
            folder,
            DistilBertModel,
            DistilBertConfig(dim=12, n_layers=2, n_heads=3, hidden_dim=20, **SIZES),
        )
    return _save(
        folder,
        BertModel,
        BertConfig(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=20,
            **SIZES,
        ),
    )


def _clip(folder, kind_name):
    """A CLIP checkpoint as published: `CLIPModel`, `CLIPTextModel` or
    `CLIPTextModelWithProjection`.
    """
    import transformers as library

    text = library.CLIPTextConfig(
        vocab_size=12,
        hidden_size=12,
        intermediate_size=20,
        projection_dim=7,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=20,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        initializer_range=0.3,
    )
    # Published merges build words of letters; here whole words are tokens of their own.
    tokenizer = library.CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    tokenizer.add_tokens(WORDS)
    tokenizer.save_pretrained(folder)
    config = text
    if kind_name == "CLIPModel":
        vision = library.CLIPVisionConfig(
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=1,
            num_attention_heads=3,
            image_size=8,
            patch_size=4,
        )
        config = library.CLIPConfig(
            text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=7
        )
    return _save(folder, getattr(library, kind_name), config)


def _embed(folder, pooling, **changes):
    values = {
        "name": "tiny",
        "is_normalised": False,
        "max_tokens": 16,
        "batch_size": 3,
        "dtype": "float32",
        **changes,
    }
    return transformers.embed(
        transformers.Config(weights=str(folder), pooling=pooling, **values), CAPTIONS
    )


@pytest.mark.parametrize("is_distilled", [False, True])
@pytest.mark.parametrize("pooling", ["cls", "mean", "eos"])
def test_bert_and_distilbert_equal_one_caption_at_a_time(tmp_path, is_distilled, pooling):
    from transformers import AutoModel, AutoTokenizer

    folder = save_bert(tmp_path, is_distilled)
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    expected = []
    for caption in CAPTIONS:
        with torch.no_grad():
            states = model(torch.tensor([tokenizer.encode(caption)])).last_hidden_state[0]
        expected.append({"cls": states[0], "mean": states.mean(0), "eos": states[-1]}[pooling])
    got = _embed(folder, pooling)
    assert got.shape == (4, 12) and torch.allclose(got, torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("kind", ["CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection"])
def test_the_text_tower_of_a_clip_checkpoint_equals_its_own_outputs(tmp_path, kind):
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

    folder = _clip(tmp_path, kind)
    tokenizer, plain = (
        AutoTokenizer.from_pretrained(folder),
        CLIPTextModel.from_pretrained(folder).eval(),
    )
    ids = [torch.tensor([tokenizer.encode(caption)]) for caption in CAPTIONS]
    with torch.no_grad():
        pooled = torch.cat([plain(row).pooler_output for row in ids])
        means = torch.cat([plain(row).last_hidden_state.mean(1) for row in ids])
    got = _embed(folder, "eos")
    assert got.shape == (4, 12) and torch.allclose(got, pooled, atol=1e-5)
    assert torch.allclose(_embed(folder, "mean"), means, atol=1e-5)
    # Captions differ
    assert float((got[None] - got[:, None]).norm(dim=2).add(torch.eye(4)).min()) > 1e-2
    if kind == "CLIPTextModel":
        with pytest.raises(
            ValueError,
            match=r"lacks 1 weights of CLIPTextModelWithProjection, first "
            r"text_projection\.weight; .*pooling",
        ):
            _embed(folder, "projected")
        return
    with torch.no_grad():
        projected = CLIPTextModelWithProjection.from_pretrained(folder).eval()
        expected = torch.cat([projected(row).text_embeds for row in ids])
    got = _embed(folder, "projected", is_normalised=True)
    assert got.shape == (4, 7) and torch.allclose(
        got, torch.nn.functional.normalize(expected, dim=1), atol=1e-5
    )


def test_what_may_heal_or_has_another_cause_is_not_taken_for_weights_that_are_not_there():
    for error in (
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError("slow"),
        OSError(errno.ENOSPC, "full"),
    ):
        with pytest.raises(type(error)) as caught, by_name("x", "hub", allowed="y", option="z"):
            raise error
        assert caught.value is error
    with (
        pytest.raises(FileNotFoundError, match="weights of 'x' cannot be had by name: away"),
        by_name("x", "hub", allowed="y", option="z"),
    ):
        raise OSError("away")


def test_options_that_a_text_encoder_cannot_follow_are_refused(tmp_path):
    folder = save_bert(tmp_path, is_distilled=False)
    with pytest.raises(
        ValueError,
        match=r"tiny \(bert\) has no projected text embedding; allowed are `cls`, "
        r".*options\.pooling",
    ):
        _embed(folder, "projected")
    with pytest.raises(
        ValueError,
        match=r"positions for 20 tokens, received max_tokens 64; allowed is 4 to 20; change "
        r".*max_tokens",
    ):
        _embed(folder, "mean", max_tokens=64)
