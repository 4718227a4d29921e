"""Makes any torchvision classification network a headless image encoder. Weights come from the hub,
from a local file, or random from the seed.

A network with one stack of convolutions gives the global average of its last feature map. These are
SqueezeNet, VGG, AlexNet, MobileNet, MNASNet, EfficientNet, DenseNet and ConvNeXt. SqueezeNet 1.1
gives 512 channels, without its 1x1 convolution to classes. Other networks (ResNet, RegNet,
ShuffleNet, Vision and Swin Transformers) give the input of their classifier. Mean and standard
deviation come from the transforms that are published with the weights.
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

# Names under which the networks of torchvision keep their classifier
_HEADS = ("classifier", "fc", "head", "heads")
# Their forward pass changes its input, or they have a second classifier. No option of `Config`
# would show this.
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
    # torchvision draws weights from the global random state. It is seeded here, and put back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "image_encoder", config.name))
        module = _headless(config.name)
    if state is not None:
        load_exactly(module, _without_head(state, module), name=config.name, weights=config.weights)
    return _wrap(config, module)


def rebuild(config: Config, state: dict[str, Tensor]) -> ImageEncoder:
    """Return the network that `build` gave, from its parameters and buffers in `state`. No weight
    file is read.
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
    """Return the network without its classifier. The remaining parts keep their names in the state
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
    """Return the tensors of a file under the names of the headless network, without the tensors of
    a classifier.
    """
    kept = {name: value for name, value in state.items() if name.partition(".")[0] not in _HEADS}
    # A file of the part `features` alone has names without this prefix
    if (
        hasattr(module, "features")
        and kept
        and not any(name.startswith("features.") for name in kept)
    ):
        return {f"features.{name}": value for name, value in kept.items()}
    return kept


def _wrap(config: Config, module: nn.Module) -> ImageEncoder:
    transforms = _published(config.name).transforms()
    # No attribute gives the width of all networks. On the meta device a forward pass computes only
    # shapes.
    shadow, size = copy.deepcopy(module).to("meta").eval(), transforms.crop_size[0]
    features = shadow(torch.zeros(1, 3, size, size, device="meta"))
    return ImageEncoder(
        module=ready(module),
        out_dim=int(features.shape[1]),
        mean=config.mean or tuple(transforms.mean),
        std=config.std or tuple(transforms.std),
    )
