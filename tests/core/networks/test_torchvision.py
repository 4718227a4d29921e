"""Networks of torchvision without their classifier equal the parts of the full network, whatever
file their weights come from.
"""

import io
import itertools
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from tasks.core.foundations.tensor_files import save_tensors
from tasks.core.networks.encoders import encode_images, normalise
from tasks.core.networks.image_encoders import torchvision as images
from tests.workspace import ROOT

SHARED = Path(os.environ.get("VL_SHARED", ROOT / ".." / "shared"))
WEIGHTS = SHARED / "weights" / "squeezenet1_1_features.safetensors"
WHERE = r"change model\.options\.weights"


def _config(name="squeezenet1_1", weights="random", **changes):
    return images.Config(
        **{"name": name, "weights": str(weights), "mean": None, "std": None, **changes}
    )


def _full(name):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return models.get_model(name, weights=None).eval()


def _equal(module, other):
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def _pictures(num=2, size=64):
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_random_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    first = images.build(_config(), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert _equal(images.build(_config(), seed=3).module, first.module)
    assert not _equal(images.build(_config(), seed=4).module, first.module)
    assert (
        first.mean == (0.485, 0.456, 0.406)
        and first.std == (0.229, 0.224, 0.225)
        and not first.module.training
    )
    assert images.build(_config(mean=(0.1, 0.2, 0.3)), seed=3).mean == (0.1, 0.2, 0.3)
    again = images.rebuild(_config(), first.module.state_dict())
    assert _equal(again.module, first.module) and (again.out_dim, again.mean, again.std) == (
        first.out_dim,
        first.mean,
        first.std,
    )


def test_squeezenet_gives_the_mean_of_its_last_map(tmp_path):
    full, pictures = _full("squeezenet1_1"), _pictures()
    save_tensors(tmp_path / "all.safetensors", full.state_dict())
    save_tensors(tmp_path / "features.safetensors", full.features.state_dict())
    with torch.no_grad():
        expected = full.features(pictures).mean((2, 3))
        for file in ("all.safetensors", "features.safetensors"):
            encoder = images.build(_config(weights=tmp_path / file), seed=8)
            got = encoder.module(pictures)
            assert got.shape == (2, encoder.out_dim) == (2, 512)
            assert torch.allclose(got, expected, atol=1e-5)
    assert (
        images.weight_files(_config(weights=tmp_path / "w")) == [tmp_path / "w"]
        and images.weight_files(_config()) == []
    )


@pytest.mark.parametrize(
    ("name", "head", "width"),
    [
        ("resnet18", "fc", 512),
        ("mnasnet0_5", "classifier", 1280),
        ("mobilenet_v2", "classifier", 1280),
        ("densenet121", "classifier", 1024),
    ],
)
def test_other_networks_give_what_enters_their_classifier(tmp_path, name, head, width):
    full, pictures, seen = _full(name), _pictures(1, 40), []
    getattr(full, head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    save_tensors(tmp_path / "w.safetensors", full.state_dict())
    encoder = images.build(_config(name, tmp_path / "w.safetensors"), seed=0)
    with torch.no_grad():
        full(pictures)
        got = encoder.module(pictures)
    assert got.shape == (1, encoder.out_dim) == (1, width) and torch.allclose(
        got, seen[0], rtol=1e-4, atol=1e-5
    )


def test_a_wrong_network_is_named():
    with pytest.raises(
        ValueError,
        match=r"unknown torchvision network 'squeezenet'; available: squeezenet1_0, squeezenet1_1;",
    ):
        images.build(_config("squeezenet"), seed=0)
    with pytest.raises(
        ValueError,
        match=r"unknown torchvision network 'inception_v3'; available: alexnet, .*; change "
        r"model\.options",
    ):
        images.build(_config("inception_v3"), seed=0)


def test_a_file_of_another_network_is_refused(tmp_path):
    state = images.build(_config(), seed=3).module.state_dict()
    file = tmp_path / "w.safetensors"
    save_tensors(
        file, {name: value for name, value in state.items() if name != "features.0.weight"}
    )
    with pytest.raises(
        ValueError,
        match=r"do not fit squeezenet1_1: the file lacks 1 of 50 tensors, first "
        r"features\.0\.weight;",
    ):
        images.build(_config(weights=file), seed=0)
    save_tensors(file, {**state, "features.0.extra": torch.zeros(2)})
    with pytest.raises(
        ValueError,
        match=r"the network has no place for 1 tensors of the file, first features\.0\.extra; .*"
        + WHERE,
    ):
        images.build(_config(weights=file), seed=0)
    save_tensors(file, {**state, "features.0.bias": torch.zeros(2)})
    with pytest.raises(
        ValueError, match=r"features\.0\.bias has shape \(2,\), needed is \(64,\); .*" + WHERE
    ):
        images.build(_config(weights=file), seed=0)
    save_tensors(file, {"classifier.1.bias": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"the file lacks 50 of 50 tensors"):
        images.build(_config(weights=file), seed=0)


@pytest.mark.shared
def test_pretrained_squeezenet_finds_the_mirror_image_of_a_photograph():
    archive = SHARED / "flickr8k" / "images-test.tar"
    if not WEIGHTS.exists() or not archive.exists():
        pytest.skip("there are no SqueezeNet weights or Flickr8k images in the folder of VL_SHARED")
    with tarfile.open(archive) as tar:
        members = itertools.islice((member for member in tar if member.isfile()), 8)
        photos = [
            np.asarray(
                Image.open(io.BytesIO(tar.extractfile(m).read())).convert("RGB").resize((160, 160))
            )
            for m in members
        ]
    stack = np.stack(photos)
    encoder = images.build(_config(weights=WEIGHTS), seed=0)
    both = np.concatenate([stack, stack[:, :, ::-1]])
    features = encode_images(encoder, both, device="cpu")
    assert (
        features.shape == (16, 512)
        and bool(features.isfinite().all())
        and float(features.min()) >= 0.0
    )
    assert torch.equal(
        features,
        encode_images(
            images.build(_config(weights=WEIGHTS), seed=1),
            np.concatenate([stack, stack[:, :, ::-1]]),
            device="cpu",
        ),
    )
    near = torch.nn.functional.normalize(features - features.mean(0), dim=1)
    assert (near[:8] @ near[8:].T).argmax(1).tolist() == list(range(8))
    with torch.no_grad():
        alone = encoder.module(
            normalise(torch.from_numpy(stack[:1].copy()), encoder.mean, encoder.std)
        )
    assert torch.allclose(alone, features[:1], rtol=1e-4, atol=1e-4)
