"""Makes any torchvision classification network a headless image encoder. Weights come from the hub,
from a local file, or random from the seed.

A network with one stack of convolutions gives the global average of its last map. These are
SqueezeNet, VGG, AlexNet, MobileNet, MNASNet, EfficientNet, DenseNet and ConvNeXt. SqueezeNet 1.1
gives 512 channels: its 1x1 convolution to classes is left out. Other networks (ResNet, RegNet,
ShuffleNet, Vision and Swin Transformers) give what enters their classifier. Normalisation is that
of the published weights' own transforms.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.foundations.section import Section
from tasks.core.foundations.seeding import derive_seed
from tasks.core.networks.encoders import ImageEncoder, Means, Stds, ready
from tasks.core.networks.weight_files import (
    by_name,
    load_exactly,
    read_weight_file,
    weight_files,
)

__all__ = ["Config", "build", "label", "rebuild", "weight_files"]

# Attributes that torchvision's networks call their classifier.
_HEADS = ("classifier", "fc", "head", "heads")
# Their forward pass changes its input or they carry a second classifier, which no option of ours
# would show.
_REFUSED = ("googlenet", "inception_v3", "maxvit_t")


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Options.

    Attributes:
        name: a torchvision classification network (`squeezenet1_1`, `resnet18`).
        weights: `hub` (torchvision's default weights by name), `random` (from the seed), or the
            path of a .safetensors file: a state dict of the network, with or without its
            classifier, or of its `features` alone.
        mean, std: replace the normalisation of the weights' transforms, or null.
    """

    name: str
    weights: str
    mean: Means
    std: Stds


def label(config: Config) -> str:
    """Return the name that artifact folders carry."""
    return config.name


def build(config: Config, *, seed: int) -> ImageEncoder:
    """Return the network in eval mode (dropout off), float32, channels-last, on the CPU.

    Raises:
        ValueError: unknown name, or weights that do not fit the network.
        FileNotFoundError: a weight file that is not there, or weights that cannot be fetched.
    """
    _check_name(config.name)
    state: dict[str, Tensor] | None = None
    if config.weights == "hub":
        with by_name(config.name, config.weights):
            state = _published(config.name).get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
    elif config.weights != "random":
        state = read_weight_file(Path(config.weights), config.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "image_encoder", config.name))
        module = _headless(config.name)
    if state is not None:
        load_exactly(module, _without_head(state, module), name=config.name, weights=config.weights)
    return _wrap(config, module)


def rebuild(config: Config, state: dict[str, Tensor]) -> ImageEncoder:
    """Return the network with the parameters and buffers of `state`, as `build` gave them; no
    weight file is read.
    """
    # Construction draws weights, which are replaced: the global random state stays as it was
    with torch.random.fork_rng(devices=[]):
        module = _headless(config.name)
    module.load_state_dict(state)
    return _wrap(config, module)


def _check_name(name: str) -> None:
    from torchvision import models

    names = [known for known in models.list_models(module=models) if known not in _REFUSED]
    if name not in names:
        close = ", ".join(known for known in names if known[:5] == name[:5]) or ", ".join(names)
        raise ValueError(
            f"unknown torchvision network {name!r}; available: {close}; change model.options.name"
        )


def _published(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name)["DEFAULT"]


def _headless(name: str) -> nn.Module:
    """Return the network without its classifier; the parts that stay keep their names in the state
    dict.
    """
    from torchvision import models

    module: nn.Module = models.get_model(name, weights=None)
    stack = next((part for part in ("features", "layers") if hasattr(module, part)), None)
    if stack is not None and hasattr(module, "classifier"):
        parts: dict[str, nn.Module] = {stack: module.get_submodule(stack)}
        if name.startswith("densenet"):
            parts["relu"] = nn.ReLU()  # DenseNet applies it after `features`
        return nn.Sequential(
            OrderedDict({**parts, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()})
        )
    head = next(head for head in _HEADS if hasattr(module, head))
    setattr(module, head, nn.Identity())
    return module


def _without_head(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a file under the names of the headless network, without those of a
    classifier.
    """
    kept = {name: value for name, value in state.items() if name.partition(".")[0] not in _HEADS}
    if (
        hasattr(module, "features")
        and kept
        and not any(name.startswith("features.") for name in kept)
    ):
        return {f"features.{name}": value for name, value in kept.items()}
    return kept


def _wrap(config: Config, module: nn.Module) -> ImageEncoder:
    transforms = _published(config.name).transforms()
    # On the meta device a forward pass takes no time, and tells the width of any network
    shadow, size = copy.deepcopy(module).to("meta").eval(), transforms.crop_size[0]
    features = shadow(torch.zeros(1, 3, size, size, device="meta"))
    return ImageEncoder(
        module=ready(module),
        out_dim=int(features.shape[1]),
        mean=config.mean or tuple(transforms.mean),
        std=config.std or tuple(transforms.std),
    )
