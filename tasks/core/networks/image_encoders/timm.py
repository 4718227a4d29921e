"""Makes any timm network a headless image encoder. Weights come by name from the hub, from a local
file, or random from the seed.

Mean and standard deviation come from the data config of the network. Weights by name and weights
from a path go through the same loader of timm.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from tasks.core.foundations.section import Section
from tasks.core.foundations.seeding import derive_seed
from tasks.core.networks.encoders import ImageEncoder, Means, Stds, ready
from tasks.core.networks.weight_files import by_name, check_weight_file, weight_files

__all__ = ["Config", "build", "label", "rebuild", "weight_files"]


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Options.

    Attributes:
        name: a timm model name, optionally with a tag (`nfnet_l0`, `mobilenetv2_100`).
        weights: `hub` (by name), `random` (from the seed), or the path of a .safetensors file.
        kwargs: further arguments for building the network, such as {pad_type: same} or {img_size:
            64}.
        mean, std: replace the normalisation of the data config, or null.
    """

    name: str
    weights: str
    kwargs: dict[str, str | int | float | bool]
    mean: Means
    std: Stds


def label(config: Config) -> str:
    """Return the name that artifact folders carry."""
    return config.name.replace("/", "_")


def build(config: Config, *, seed: int) -> ImageEncoder:
    """Return the network in eval mode, float32, channels-last, on the CPU.

    Raises:
        ValueError: unknown name, arguments that the network does not take, or weights that do not
            fit it.
        FileNotFoundError: a weight file that is not there, or weights that the hub does not give.
    """
    import timm
    from safetensors import SafetensorError

    if not timm.is_model(config.name.split(".")[0]):
        near = get_close_matches(config.name, timm.list_models(), 8)
        close = ", ".join(near) or "see timm.list_models()"
        raise ValueError(
            f"unknown timm network {config.name!r}; similar names: {close}; change "
            "model.options.name"
        )
    files = weight_files(config)
    for path in files:
        check_weight_file(path)
    # Some networks were published as .npz files. For them timm would take its reader of that
    # format, which `custom_load: False` prevents.
    overlay = {"file": config.weights, "custom_load": False} if files else None
    # timm draws weights from the global random state. It is seeded here, and put back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "image_encoder", config.name))
        try:
            with by_name(config.name, config.weights):
                module = _create(
                    config, pretrained=config.weights != "random", pretrained_cfg_overlay=overlay
                )
        except (RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())  # PyTorch says it in lines
            raise ValueError(
                f"weights {config.weights!r} do not fit {config.name}: {reason}; change "
                "model.options"
            ) from error
        if files:
            _check_all_loaded(config, module)
    return _wrap(config, module)


def rebuild(config: Config, state: dict[str, torch.Tensor]) -> ImageEncoder:
    """Return the network that `build` gave, from its parameters and buffers in `state`. No weight
    file is read.
    """
    with torch.random.fork_rng(devices=[]):
        module = _create(config, pretrained=False)
    module.load_state_dict(state)
    return _wrap(config, module)


def _create(config: Config, **how: Any) -> nn.Module:
    import timm

    kwargs: dict[str, Any] = dict(config.kwargs)
    try:
        module: nn.Module = timm.create_model(config.name, num_classes=0, **kwargs, **how)
    # Each network raises another error for an argument that it does not know
    except (TypeError, ValueError, AssertionError, AttributeError, LookupError) as error:
        raise ValueError(
            f"{config.name} cannot be built with the arguments {kwargs}: {error}; change "
            "model.options.kwargs"
        ) from error
    return module


def _check_all_loaded(config: Config, module: nn.Module) -> None:
    """Raise ValueError when the file lacks a weight, which then stays random.

    timm does not raise: for a network without classifier it allows missing tensors. Each write into
    a tensor raises its version counter. A loaded tensor was written to more often than one that was
    only initialised.
    """
    untouched = {
        name: value._version
        for name, value in _create(config, pretrained=False).state_dict(keep_vars=True).items()
    }
    state = module.state_dict(keep_vars=True)
    missing = [
        name
        for name, value in state.items()
        if value.is_floating_point() and value._version == untouched[name]
    ]
    if missing:
        raise ValueError(
            f"weights {config.weights!r} do not fit {config.name}: the file lacks {len(missing)} "
            f"of {len(state)} tensors, first "
            f"{', '.join(missing[:3])}; allowed is a file of that very network; change "
            "model.options.weights"
        )


def _wrap(config: Config, module: nn.Module) -> ImageEncoder:
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(module)
    # Some networks (MobileNetV3) keep a hidden layer of the head, which decides the width
    width: Any = getattr(module, "head_hidden_size", module.num_features)
    return ImageEncoder(
        module=ready(module),
        out_dim=int(width),
        mean=config.mean or tuple(data["mean"]),
        std=config.std or tuple(data["std"]),
    )
