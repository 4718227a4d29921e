"""Any timm network as a headless image encoder: weights by name from the hub, from a local file, or random from the seed.

Normalisation comes from the network's own data config. Weights by name and from a path go through the same timm loader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.core.encoders import ImageEncoder
from tasks.core.section import Section
from tasks.core.seeding import derive_seed


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Options.

    Attributes:
        name: a timm model name, optionally with a tag (`nfnet_l0`, `mobilenetv2_100`).
        weights: `hub` (by name), `random` (from the seed), or the path of a .safetensors file.
        kwargs: further arguments of the network, for example {pad_type: same} or {img_size: 64}.
        mean, std: replace the normalisation of the data config, or null.
    """

    name: str
    weights: str
    kwargs: dict[str, str | int | float | bool]
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None


def label(config: Config) -> str:
    """Return the name that artifact folders carry."""
    return config.name.replace("/", "_")


def weight_files(config: Config) -> list[Path]:
    """Return local files whose content decides the result."""
    return [] if config.weights in ("hub", "random") else [Path(config.weights)]


def build(config: Config, *, seed: int) -> ImageEncoder:
    """Return the network in eval mode, float32, channels-last, on the CPU.

    Raises:
        ValueError: unknown name, or weights that do not fit the network.
        FileNotFoundError: a weight file that is not there.
    """
    import timm

    if not timm.is_model(config.name.split(".")[0]):
        close = ", ".join(timm.list_models(f"*{config.name[:6]}*")[:8]) or "see timm.list_models()"
        raise ValueError(f"unknown timm network {config.name!r}; similar names: {close}; change model.options.name")
    for path in weight_files(config):
        if not path.is_file():
            raise FileNotFoundError(
                f"weights {str(path)!r} are not there; allowed are 'hub', 'random' or the path of a .safetensors file; "
                "change model.options.weights"
            )
    overlay = {"file": config.weights} if weight_files(config) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "image_encoder", config.name))
        try:
            return _wrap(config, _create(config, pretrained=config.weights != "random", pretrained_cfg_overlay=overlay))
        except RuntimeError as error:
            raise ValueError(f"weights {config.weights!r} do not fit {config.name}: {error}; change model.options") from error


def rebuild(config: Config, state: dict[str, torch.Tensor]) -> ImageEncoder:
    """Return the network with the parameters and buffers of `state`, as `build` gave them; no weight file is read."""
    with torch.random.fork_rng(devices=[]):
        module = _create(config, pretrained=False)
    module.load_state_dict(state)
    return _wrap(config, module)


def _create(config: Config, **how: Any) -> nn.Module:
    import timm

    kwargs: dict[str, Any] = dict(config.kwargs)
    module: nn.Module = timm.create_model(config.name, num_classes=0, **kwargs, **how)
    return module


def _wrap(config: Config, module: nn.Module) -> ImageEncoder:
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(module)
    width: Any = getattr(module, "head_hidden_size", module.num_features)
    return ImageEncoder(
        module=module.eval().to(memory_format=torch.channels_last),
        out_dim=int(width),
        mean=config.mean or tuple(data["mean"]),
        std=config.std or tuple(data["std"]),
    )
