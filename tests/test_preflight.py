"""Networks that cannot be used are found before anything is prepared: one message, which names the
parameter. By real processes, on networks that the tests make.
"""

import json
import shutil

import pytest
import timm
import torch
import transformers as library
from safetensors.torch import save_file
from torch import nn

from tasks import preflight
from tasks.settings import params
from tests.core.networks.test_encoders_named import SIZES, save_bert
from tests.workspace import Workspace, make_workspace

OPTIONS = "weights: random, kwargs: {}, mean: null, std: null"
TEXT = "pooling: mean, is_normalised: false, max_tokens: 16, batch_size: 8, dtype: float32"
STUDENT = "trainable: full, lora: null, embed_dim: null, input_size: null"
IN_MODEL = "profiles.toy.model: "
IN_TEXT = "profiles.toy.embed_captions: "
IN_STUDENT = "profiles.toy.evaluate.cross_architecture.other: "


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace in which nothing is made, with networks under raw/."""
    workspace = make_workspace(tmp_path_factory.mktemp("preflight") / "copy")
    raw = workspace.folder / "raw"
    for name in ("bert", "unpadded", "foreign", "pickled", "wordless", "broken", "zero"):
        (raw / name).mkdir(parents=True)
        save_bert(raw / name, is_distilled=False)
    _rewrite(raw / "unpadded/tokenizer_config.json", pad_token=None)
    code = {"AutoConfig": "configuration_x.X", "AutoModel": "modeling_x.X"}
    _rewrite(raw / "foreign/config.json", model_type="x_private", auto_map=code)
    for name in ("configuration_x.py", "modeling_x.py"):
        (raw / "foreign" / name).write_text("open('was_run', 'w')\n")
    (raw / "pickled/model.safetensors").rename(raw / "pickled/pytorch_model.bin")
    for name in ("vocab.txt", "tokenizer.json"):
        (raw / "wordless" / name).unlink(missing_ok=True)
    (raw / "broken/config.json").write_text("{")
    _save(raw, "zero", library.BertModel(_bert()), scale=0.0)
    kinds = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 12, **SIZES}
    siglip = library.SiglipTextConfig(**kinds, intermediate_size=20)
    _save(raw, "siglip_text", library.SiglipTextModel(siglip))
    seen = library.SiglipVisionConfig(
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_size=12,
        intermediate_size=20,
        image_size=8,
        patch_size=4,
    )
    both = library.SiglipConfig(text_config=siglip.to_dict(), vision_config=seen.to_dict())
    _save(raw, "siglip", library.SiglipModel(both))
    t5 = library.T5Config(d_model=12, d_kv=4, d_ff=20, num_layers=1, num_heads=2, vocab_size=15)
    _save(raw, "t5", library.T5Model(t5))
    network = timm.create_model("test_nfnet").state_dict()
    save_file(network, raw / "nfnet.safetensors")
    save_file({name: value * 0.0 for name, value in network.items()}, raw / "zero.safetensors")
    (raw / "damaged.safetensors").write_bytes(b"no tensors")
    return workspace


def _bert():
    layers = {"num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20}
    return library.BertConfig(hidden_size=12, **layers, **SIZES)


def _save(raw, name, network, scale=1.0):
    """Save a network beside the tokenizer of the tiny BERT."""
    shutil.copytree(raw / "bert", raw / name, dirs_exist_ok=True)
    for value in network.parameters():
        value.data *= scale
    network.save_pretrained(raw / name)


def _rewrite(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _image(name, options=OPTIONS):
    return f"model.options={{name: {name}, {options}}}"


def _text(weights, options=TEXT):
    own = f"{{name: tiny, weights: '{weights}', {options}}}"
    return f"embed_captions={{text_encoder: transformers, options: {own}}}"


def _student(name, options=OPTIONS, section=STUDENT):
    own = f"image_encoder: timm, options: {{name: {name}, {options}}}, {section}"
    return f"evaluate.cross_architecture={{other: {{{own}}}}}"


def _lora(*targets):
    return ("model.trainable=lora", f"model.lora={{rank: 2, alpha: 2.0, targets: [{targets[0]}]}}")


def _weights(file):
    return OPTIONS.replace("random", file)


VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
CASES = {
    "a ViT at another size": (
        (_image(VIT),),
        [IN_MODEL, VIT, "32 x 32 px", "prepare_data.image_size", "{img_size: 32}"],
    ),
    "a Swin at another size": ((_image(SWIN),), [IN_MODEL, SWIN, "32 x 32 px", "img_size"]),
    "a further student at another size": (
        (_student(VIT, section=STUDENT.replace("size: null", "size: 48")),),
        [IN_STUDENT, VIT, "48 x 48 px", "evaluate.cross_architecture.other.input_size"],
    ),
    "an argument that a network does not take": (
        (_image("test_resnet", OPTIONS.replace("{}", "{img_size: 32}")),),
        [IN_MODEL, "img_size", "change model.options.kwargs"],
    ),
    "an unknown network": (
        (_image("vit_tiny_patch16_225"),),
        [IN_MODEL, "'vit_tiny_patch16_225'", VIT, "change model.options.name"],
    ),
    "an unknown network of a further student": (
        (_student("resnet181"),),
        [IN_STUDENT, "'resnet181'", "change evaluate.cross_architecture.other.options.name"],
    ),
    "an unknown kind of encoder": (
        ("model.image_encoder=tim",),
        ["profiles.toy.model", "'tim' (did you mean 'timm'?)"],
    ),
    "weights that are not there": (
        (_image("test_nfnet", _weights("raw/none.safetensors")),),
        [IN_MODEL, "'raw/none.safetensors'", "'hub', 'random'", "change model.options.weights"],
    ),
    "weights of a further student that are not there": (
        (_student("test_resnet", _weights("raw/none.safetensors")),),
        [IN_STUDENT, "change evaluate.cross_architecture.other.options.weights"],
    ),
    "weights of another network": (
        (_image("test_resnet", _weights("raw/nfnet.safetensors")),),
        [IN_MODEL, "'raw/nfnet.safetensors' do not fit test_resnet", "change model.options"],
    ),
    "weights that are no file of tensors": (
        (_image("test_nfnet", _weights("raw/damaged.safetensors")),),
        [IN_MODEL, "'raw/damaged.safetensors' do not fit", "change model.options"],
    ),
    "weights of zeros": (
        (_image("test_nfnet", _weights("raw/zero.safetensors")),),
        [IN_MODEL, "are zero", "change model.options"],
    ),
    "a standard deviation of zero": (
        ("model.options.std=[0.0, 0.5, 0.5]",),
        ["profiles.toy.model.options.std", "received 0.0", "allowed is >= 0.001"],
    ),
    "adapters that fit no layer": (
        (_image("test_nfnet"), *_lora("attn.qkv")),
        [IN_MODEL, "attn.qkv", "allowed are attn.qkv", "change model.lora.targets"],
    ),
    "adapters of a further student that fit no layer": (
        (
            _student(
                "test_resnet",
                section="trainable: lora, lora: {rank: 2, alpha: 2.0, targets: [fc1]}, "
                "embed_dim: null, input_size: null",
            ),
        ),
        [IN_STUDENT, "fc1", "change evaluate.cross_architecture.other.lora.targets"],
    ),
    "a text encoder that is not there": (
        (_text("raw/none"),),
        [IN_TEXT, "no config.json in raw/none", "change embed_captions.options.weights"],
    ),
    "an encoder with a decoder": ((_text("raw/t5"),), [IN_TEXT, "(t5)", "BERT", ".weights"]),
    "the text tower of SigLIP": (
        (_text("raw/siglip_text"),),
        [IN_TEXT, "SiglipTextConfig", "allowed are networks that encode text alone"],
    ),
    "SigLIP as a whole": ((_text("raw/siglip"),), [IN_TEXT, "text alone", "options.name"]),
    "no pad token": ((_text("raw/unpadded"),), [IN_TEXT, "has no pad token", "eos_token"]),
    "no words": ((_text("raw/wordless"),), [IN_TEXT, "knows no word", "tokenizer.json"]),
    "captions under zeros": ((_text("raw/zero"),), [IN_TEXT, "1 different vectors for 2"]),
    "weights that may hold code": (
        (_text("raw/pickled"),),
        [IN_TEXT, "no .safetensors file in raw/pickled", "pytorch_model.bin", "save_pretrained"],
    ),
    "a config that is no JSON": ((_text("raw/broken"),), [IN_TEXT, "cannot be loaded"]),
    "code that comes with an encoder": (
        (_text("raw/foreign"),),
        [IN_TEXT, "code that comes with it is never run", "embed_captions.options.weights"],
    ),
    "more tokens than positions": (
        (_text("raw/bert", TEXT.replace("16", "64")),),
        [IN_TEXT, "positions for 20 tokens, received max_tokens 64", ".max_tokens"],
    ),
    "an unknown pooling": (
        (_text("raw/bert", TEXT.replace("mean", "max")),),
        ["profiles.toy.embed_captions.options.pooling: received 'max'"],
    ),
}


def refused(done):
    """Return the one message of a run that has done nothing."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    found = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(found) == 1, done.stderr
    assert "custom code? [y/N]" not in done.stdout + done.stderr
    return found[0]


def made(workspace):
    """Return what lies in data/, apart from notes of this check."""
    return [path.name for path in workspace.folder.glob("data/*") if path.name != ".checked"]


@pytest.mark.parametrize("name", CASES)
def test_a_network_that_cannot_be_used_is_said_before_anything_is_made(place, name):
    settings, parts = CASES[name]
    words = [word for setting in settings for word in ("--set", setting)]
    message = refused(place.flow("pipeline", *words, check=False))
    assert [part for part in parts if part not in message] == [], message
    assert len(message) < 1200 and made(place) == []
    assert not (place.folder / "was_run").exists()


def test_a_network_of_a_cell_is_said_before_the_first_cell_begins(place):
    cells = "profiles.toy.presets.vision_encoders={good: {}, bad: {model.options.name: resnet181}}"
    done = place.flow("preset", "vision_encoders", "--set", cells, check=False)
    message = refused(done)
    assert IN_MODEL in message and "change model.options.name in the cell" in message
    assert message.endswith("vision_encoders/bad of presets.yaml") and made(place) == []


@pytest.mark.parametrize(
    ("command", "is_refused"),
    [("prepare_data", False), ("embed_captions", False), ("train_experts", True)],
)
def test_a_command_asks_for_the_networks_that_it_uses(place, command, is_refused, tmp_path):
    copy = shutil.copytree(place.folder, tmp_path / "copy", symlinks=True)
    words = ("--set", _image("test_nfnet", _weights("raw/none.safetensors")))
    done = Workspace(copy).flow(command, *words, check=False)
    assert done.returncode == (2 if is_refused else 0), done.stderr


def test_a_plan_of_a_network_that_cannot_be_used_is_refused(place):
    """Without asking for weights: a plan is made before they are fetched."""
    weights = _weights("raw/none.safetensors")
    message = refused(
        place.run("python", "-m", "flows.cli", "plan", "--set", _image(VIT, weights), check=False)
    )
    assert IN_MODEL in message and "32 x 32 px" in message


def test_dvc_asks_for_all_networks_before_its_first_stage(place):
    words = ("--set", _image("test_nfnet", _weights("raw/none.safetensors")))
    message = refused(place.flow("prepare_data", *words, check=False, DVC_STAGE="prepare_data"))
    assert IN_MODEL in message and made(place) == []


def _without(workspace, library_name, *words):
    """Run the pipeline where a library cannot be imported."""
    lines = f"import sys; sys.modules[{library_name!r}] = None; from flows.cli import console; "
    lines += f"console(['pipeline', *{words!r}])"
    return workspace.run("python", "-c", lines, check=False)


@pytest.mark.parametrize(
    ("name", "settings", "parts"),
    [
        (
            "peft",
            (_image("test_vit", OPTIONS.replace("{}", "{img_size: 32}")), *_lora("fc1")),
            [IN_MODEL, "a library is missing: ", "peft", "install it"],
        ),
        ("transformers", (_text("raw/bert"),), [IN_TEXT, "transformers", "install"]),
        ("faiss", (), ["profiles.toy.evaluate: ", "faiss is not installed", "pip install"]),
    ],
)
def test_a_library_that_is_missing_is_said_before_anything_is_made(place, name, settings, parts):
    words = [word for setting in settings for word in ("--set", setting)]
    shutil.rmtree(place.folder / "data", ignore_errors=True)
    message = refused(_without(place, name, *words))
    assert [part for part in parts if part not in message] == [], message
    assert made(place) == []


class _Counting(nn.Module):
    """Counts its calls in a buffer, as batch norm that takes statistics does."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        return self.layer(images.mean((2, 3)))


class _OnceDifferentiable(_Counting):
    """torch has no second derivative of this function."""

    def forward(self, images):
        return nn.functional.hardsigmoid(self.layer(images.mean((2, 3))))


class _Maps(_Counting):
    def forward(self, images):
        return images


def counting_network(pretrained=False, **kwargs):
    return _Counting()


def once_differentiable_network(pretrained=False, **kwargs):
    return _OnceDifferentiable()


def network_of_maps(pretrained=False, **kwargs):
    return _Maps()


for made_here in (counting_network, once_differentiable_network, network_of_maps):
    timm.models.register_model(made_here)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ((_image("counting_network"),), ["cannot be trained", "changes its buffers", "calls"]),
        ((_image("network_of_maps"),), ["needed is one vector of 3", "model.options.name"]),
        (
            (_image("once_differentiable_network"), "distill.matching.engine=double_backward"),
            ["engine: received 'double_backward'", "central_difference", "distill.matching"],
        ),
    ],
)
def test_a_network_that_no_engine_can_differentiate_is_refused(place, monkeypatch, settings, parts):
    monkeypatch.chdir(place.folder)
    chosen = params.load(settings)
    with pytest.raises(ValueError, match=rf"^{IN_MODEL}") as raised:
        preflight.check(chosen, "distill")
    assert [part for part in parts if part not in str(raised.value)] == []


def test_first_derivatives_are_enough_where_the_engine_needs_no_more(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    preflight.check(params.load((_image("once_differentiable_network"),)), "distill")


def test_what_worked_is_not_built_again_until_something_of_it_changes(place):
    words = ("--set", _image("test_resnet"), "--set", "seed=3")
    assert place.flow("train_experts", *words).returncode == 0
    shutil.rmtree(place.folder / "data/experts")
    check = "from tasks import preflight; from tasks.settings import params; "
    check += f"import sys; sys.modules['timm'] = None; chosen = params.load({words[1::2]!r}); "
    place.run("python", "-c", check + "preflight.check(chosen, 'train_experts')")
    other = "import dataclasses; chosen = dataclasses.replace(chosen, prepare_data="
    other += "dataclasses.replace(chosen.prepare_data, image_size=40)); "
    done = place.run(
        "python", "-c", f"{check}{other}preflight.check(chosen, 'train_experts')", check=False
    )
    assert "No module named 'timm'" in done.stderr or "timm halted" in done.stderr
    shutil.rmtree(place.folder / "data")


def test_weights_are_not_asked_for_where_the_artifact_of_them_is_there(place):
    file = place.folder / "raw/nfnet.safetensors"
    words = ("--set", _image("test_nfnet", _weights("raw/nfnet.safetensors")))
    words += ("--set", _text("raw/bert"))
    place.flow("train_experts", *words)
    for path in (file, place.folder / "raw/bert"):
        path.rename(path.with_name(f"away_{path.name}"))
    shutil.rmtree(place.folder / "data/.checked")
    done = place.flow("train_experts", *words)
    assert "0 made" in done.stdout
    absent = ("--set", _image("test_nfnet", _weights("raw/none.safetensors")))
    assert "'raw/none.safetensors' are not there" in refused(
        place.flow("train_experts", *absent, check=False)
    )
    for path in (file, place.folder / "raw/bert"):
        path.with_name(f"away_{path.name}").rename(path)
    shutil.rmtree(place.folder / "data")


def test_raw_data_are_asked_for_before_a_network_is_built(place):
    done = place.flow("train_experts", "--profile", "flickr30k", check=False)
    assert done.returncode == 2 and "there is no dataset folder 'raw/flickr30k'" in done.stderr
    assert "checking" not in done.stderr
