"""Weights by name from a model hub: the same artifacts as from local paths, and what a user reads
where there is no hub.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from safetensors.torch import save_file

from tests.core.networks.local_hub import COMMIT, serving
from tests.core.networks.test_encoders_named import save_bert
from tests.workspace import ROOT, TINY, environment, make_workspace

pytestmark = pytest.mark.services
CAPTIONS = {
    "max_tokens": "16",
    "pooling": "cls",
    "is_normalised": "false",
    "batch_size": "64",
    "dtype": "float32",
}
BUILD = """
from tasks.core.networks.image_encoders import timm, torchvision
from tasks.core.networks.text_encoders import transformers
own = {"weights": "hub", "mean": None, "std": None}
pooled = {"pooling": "cls", "is_normalised": False, "max_tokens": 16}
bert = {"weights": "hub", "batch_size": 3, "dtype": "float32", **pooled}
builds = [
    lambda: timm.build(timm.Config(name="test_nfnet", kwargs={}, **own), seed=0),
    lambda: torchvision.build(torchvision.Config(name="squeezenet1_1", **own), seed=0),
    lambda: transformers.embed(transformers.Config(name="bert-base-uncased", **bert), ["a dog"]),
]
for build in builds:
    try:
        build()
    except FileNotFoundError as error:
        print(" ".join(str(error).split()))
"""


def _by_name(tmp_path):
    """A hub with a tiny BERT under the paper's name and a timm network under its own; returns the
    folder and the network's repository.
    """
    import timm

    hub = tmp_path / "hub"
    network = timm.create_model("test_nfnet")
    repository = network.pretrained_cfg["hf_hub_id"]
    for name in ("bert-base-uncased", repository):
        (hub / name).mkdir(parents=True)
    save_bert(hub / "bert-base-uncased", is_distilled=False)
    save_file(network.state_dict(), hub / repository / "model.safetensors")
    return hub, repository


def _own(home):
    """The environment of a program with a cache of its own that may ask the hub on this machine,
    whatever the caller's says.
    """
    near = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return {
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        **near,
    }


def _settings(text_weights, image_weights):
    text = {"name": "bert-base-uncased", "weights": str(text_weights), **CAPTIONS}
    options = ", ".join(f"{key}: {value}" for key, value in text.items())
    image = f"{{name: test_nfnet, weights: '{image_weights}', kwargs: {{}}, mean: null, std: null}}"
    return (
        *TINY,
        "embed_captions.text_encoder=transformers",
        f"embed_captions.options={{{options}}}",
        f"model.options={image}",
    )


def test_weights_by_name_and_from_a_path_make_the_same_artifacts(tmp_path):
    hub, repository = _by_name(tmp_path)
    named = make_workspace(tmp_path / "named", _settings("hub", "hub"))
    local = make_workspace(
        tmp_path / "local",
        _settings(hub / "bert-base-uncased", hub / repository / "model.safetensors"),
    )
    with serving(hub) as (address, sent):
        named.flow_alone("train_experts", HF_ENDPOINT=address, **_own(tmp_path / "home"))
        assert {"bert-base-uncased/model.safetensors", f"{repository}/model.safetensors"} <= set(
            sent
        )
    local.flow("train_experts")
    named_files, local_files = (
        {name: json.loads(files) for name, files in made.digests().items()}
        for made in (named, local)
    )
    assert len(named_files) == 5
    text = hub / "bert-base-uncased"
    facts, local_facts = (
        json.loads((folder / "manifest.json").read_text())["facts"]
        for made in (named, local)
        for folder in made.folder.glob("data/caption_embeddings/toy/*")
    )
    assert facts["revision"] == COMMIT and "revision" not in local_facts
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert facts["weights"][name] == hashlib.sha256((text / name).read_bytes()).hexdigest()
    for files in (named_files, local_files):
        # Its options, which hold `weights` as it was given
        files["data/experts/toy/test_nfnet-full/start"].pop("encoder.json")
    assert named_files == local_files


def _messages(tmp_path, hub):
    """Ask for weights by name at the address `hub`, and return what each encoder said."""
    env = {
        **environment(),
        **_own(tmp_path),
        "TORCH_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
        "HF_ENDPOINT": hub,
    }
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Torch prints what it downloads
    return [line for line in done.stdout.splitlines() if line.startswith("the weights of ")]


def test_without_a_hub_the_error_says_what_else_is_allowed(tmp_path):
    with serving(tmp_path) as (address, _):
        absent = _messages(tmp_path, address)
    options = {
        "test_nfnet": "model",
        "squeezenet1_1": "model",
        "bert-base-uncased": "embed_captions",
    }
    for lines in (absent, _messages(tmp_path, address)):
        for line, (name, option) in zip(lines, options.items(), strict=True):
            assert line.startswith(f"the weights of '{name}' cannot be had by name: ")
            assert "allowed are 'hub' on a machine that reaches it or has its cache" in line
            assert line.endswith(f"change {option}.options.weights")
