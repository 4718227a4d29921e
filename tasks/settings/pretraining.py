"""What `vl-distillery pretrain` is told: the encoder to train, its teacher, and `pretrain.*`
values, validated like those of params.yaml.

The defaults of `pretrain` are those of `PretrainSection`; no profile holds them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.core.training.pretraining import PretrainSection
from tasks.settings import params
from tasks.settings.overrides import override
from tasks.settings.params import Params
from tasks.settings.validation import Plugin, section_of

SECTION = "pretrain"
OPTION = "model.options.weights"
BY_NAME, RANDOM = "hub", "random"


@dataclass(frozen=True)
class Work:
    """What `pretrain` is told.

    Attributes:
        settings: those of params.yaml, for the stages before it.
        params: of the run, with the encoder to train, from random weights.
        teacher: the same with the teacher in its place, frozen.
        target: the .safetensors file to write.
    """

    settings: tuple[str, ...]
    params: Params
    teacher: Params
    section: PretrainSection
    target: Path


def load(
    settings: Sequence[str],
    teacher: str | None,
    to: str | None,
    epochs: int | None,
    minutes: float | None,
) -> Work:
    """Return what a command line asks for.

    Args:
        teacher: the profile that has it as its image encoder; None takes the profile itself,
            without `settings`.
        to: the file to write; None takes the path that `model.options.weights` names.

    Raises:
        ValueError: a wrong value or name, an encoder that cannot be pretrained, or a target that
            exists.
    """
    own = [setting for setting in settings if setting.startswith(f"{SECTION}.")]
    others = tuple(setting for setting in settings if setting not in own)
    chosen = params.load(others)
    section = _section(own, {"epochs": epochs, "minutes": minutes})
    taught = untrained(chosen)
    # What is said of a profile from the top holds for the teacher too
    shared = [setting for setting in others if setting.startswith("profiles.")]
    teaching = _teacher(chosen, teacher or chosen.profile, shared)
    if teaching.image_encoder.as_params() == chosen.image_encoder.as_params():
        raise ValueError(
            f"--teacher: received {teaching.profile}, with {chosen.image_encoder.label}, which is "
            "the network to be trained too; allowed are two different ones; choose what is trained "
            "by --set variant=PRESET/CELL or --set model.options, or another --teacher"
        )
    return Work(others, taught, teaching, section, _target(chosen, to))


def _section(own: Sequence[str], given: dict[str, Any]) -> PretrainSection:
    """Return the section with `pretrain.key=value` settings and what options gave."""
    # As a profile with this one section, so that a wrong key gets the message of `--set`
    values = asdict(PretrainSection())
    tree = {"profile": SECTION, "profiles": {SECTION: {SECTION: values}}}
    for setting in own:
        override(tree, setting)
    values.update({key: value for key, value in given.items() if value is not None})
    section: PretrainSection = section_of(PretrainSection, values, SECTION)
    if (section.epochs is None) == (section.minutes is None):
        raise ValueError(
            f"pretrain: received epochs {section.epochs} and minutes {section.minutes}; allowed is "
            "one of them; give --epochs or --minutes"
        )
    return section


def untrained(chosen: Params) -> Params:
    """Return the parameters with random weights in the encoder, which is trained as a whole.

    Raises:
        ValueError: the encoder has no option `weights`.
    """
    plugin = chosen.image_encoder
    if not hasattr(plugin.config, "weights"):
        raise ValueError(
            f"model.image_encoder: received {plugin.name}, which has no option `weights`; allowed "
            "is an encoder that reads them from a file, such as timm; change it in params.yaml or "
            "by --set"
        )
    untrained = Plugin(plugin.kind, plugin.name, replace(plugin.config, weights=RANDOM))
    model = replace(chosen.model, trainable="full", lora=None, embed_dim=None)
    return replace(chosen, image_encoder=untrained, model=model)


def _teacher(chosen: Params, name: str, settings: Sequence[str]) -> Params:
    """Return the parameters with the image encoder of the profile `name`, frozen."""
    try:
        found = params.load([*settings, f"profile={name}"])
    except ValueError as error:
        raise ValueError(f"--teacher {name}: {error}") from error
    width = 8  # of heads that are built for a check alone
    model = replace(chosen.model, trainable="heads", lora=None, embed_dim=width)
    return replace(
        chosen, profile=name, image_encoder=found.image_encoder, model=model, variant=None
    )


def _target(chosen: Params, to: str | None) -> Path:
    weights = chosen.image_encoder.config.weights
    if to is None and weights in (BY_NAME, RANDOM):
        raise ValueError(
            f"--to: received nothing, and {OPTION} is {weights!r}; allowed is a .safetensors file "
            f"to write; give --to, or a path as {OPTION}"
        )
    target = Path(to or weights)
    if target.suffix != ".safetensors":
        raise ValueError(
            f"--to: received {str(target)!r}; allowed is a name that ends in .safetensors; change "
            f"--to or {OPTION}"
        )
    check_free(target)
    return target


def check_free(target: Path) -> None:
    """Raise ValueError where the file to write or its json exists, or cannot have its folder."""
    files = [path for path in target.parents if path.exists() and not path.is_dir()]
    if files:
        raise ValueError(
            f"--to: received {target}, and {files[0]} is no folder; allowed is a file in a folder; "
            "change --to"
        )
    facts = target.with_name(f"{target.name}.json")
    for place in (target, facts):
        # A link whose target is gone would be replaced as well
        if (place.exists() or place.is_symlink()) and not _is_ours(place):
            raise ValueError(
                f"--to: received {target}, and {place} exists; allowed is a name that is free; "
                "choose another, or remove it"
            )


def _is_ours(place: Path) -> bool:
    """Whether it is the json of a run that was killed before it wrote its weights."""
    if place.suffix != ".json" or not place.is_file():
        return False
    try:
        facts = json.loads(place.read_text())
    except ValueError:
        return False
    return isinstance(facts, dict) and "sha256" in facts
