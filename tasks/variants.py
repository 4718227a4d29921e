"""Presets of params.yaml: tables of the paper as named cells, each a variant of the profile by a few settings.

A cell is {section.key: value}. What it does not change it shares with the profile itself: `Variant.changed` names the
sections that are not the profile's, and `Params.space` puts only what builds on those into folders of their own.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

from tasks.overrides import assign

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
TITLE, EVERY, CELLS = "title", "every", "cells"
# What these hold is a list of artifacts, each with its own key; it says nothing about how one of them is made.
LISTS = ("methods", "budgets")


@dataclass(frozen=True)
class Variant:
    """One cell of a preset, applied to a profile.

    Attributes:
        preset, cell: its names.
        label: in folders, `<preset>-<cell>` of the first cell with the same settings, so that equal cells of two presets share artifacts.
        settings: what it sets, {section.key: value}.
        changed: sections of the profile that are not the profile's own any more.
    """

    preset: str
    cell: str
    label: str
    settings: dict[str, Any]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Preset:
    """A table: its title, and the settings of each cell, {section.key: value}."""

    title: str
    cells: dict[str, dict[str, Any]]


def presets_of(tree: dict[str, Any]) -> dict[str, Preset]:
    """Return the presets of the chosen profile, which may replace the cells of any of them by its own.

    Raises:
        ValueError: a preset is not {title, every, cells}, a cell no mapping, or a name is unfit for a folder.
    """
    own = tree["profiles"][tree["profile"]]["presets"]
    unknown = sorted(set(_mapping(own, f"profiles.{tree['profile']}.presets")) - set(tree["presets"]))
    if unknown:
        raise ValueError(
            f"profiles.{tree['profile']}.presets: received {', '.join(unknown)}; allowed are presets that `presets` at the top has: "
            f"{', '.join(tree['presets'])}; change it there"
        )
    return {name: _preset(name, body, own.get(name)) for name, body in _mapping(tree["presets"], "presets").items()}


def apply(tree: dict[str, Any], name: str) -> Variant:
    """Change a raw tree, in place, to the cell `<preset>/<cell>` of its profile.

    Raises:
        ValueError: no such preset or cell, or a setting of a key that params.yaml does not have.
    """
    presets = presets_of(tree)
    preset, _, cell = name.partition("/")
    cells = find(presets, preset).cells
    if cell not in cells:
        raise ValueError(f"preset {preset!r}: received the cell {cell!r}; allowed: {', '.join(cells)}; change `presets` of params.yaml")
    profile = tree["profiles"][tree["profile"]]
    before = copy.deepcopy(profile)
    for path, value in cells[cell].items():
        assign(tree, path, copy.deepcopy(value), f"presets.{preset}.{cell}: {path}")
    changed = tuple(key for key in profile if key not in LISTS and profile[key] != before[key])
    return Variant(preset, cell, _label(presets, cells[cell]), cells[cell], changed)


def find(presets: dict[str, Preset], name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ValueError: there is none; the message lists those that are.
    """
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; available: {', '.join(presets)}; see `presets` of params.yaml")
    return presets[name]


def _preset(name: str, body: Any, own: Any) -> Preset:
    where = f"presets.{name}"
    if set(_mapping(body, where)) != {TITLE, EVERY, CELLS}:
        raise ValueError(f"{where}: received the keys {', '.join(map(str, body))}; allowed and needed: {CELLS}, {EVERY}, {TITLE}")
    every = _mapping(body[EVERY], f"{where}.{EVERY}")
    cells = _mapping(body[CELLS] if own is None else own, where)
    for part in (name, *cells):
        if not NAME.fullmatch(str(part)):
            raise ValueError(f"{where}: received the name {part!r}; allowed are small letters, digits and `_`, since it names a folder")
    return Preset(str(body[TITLE]), {cell: {**every, **_mapping(settings, f"{where}.{cell}")} for cell, settings in cells.items()})


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or "profile" in value:
        raise ValueError(f"{where}: received {value!r}; allowed is a mapping without `profile`, {{}} for none; change it in params.yaml")
    return value


def _label(presets: dict[str, Preset], settings: dict[str, Any]) -> str:
    wanted = _decisive(settings)
    return next(f"{preset}-{cell}" for preset, body in presets.items() for cell, other in body.cells.items() if _decisive(other) == wanted)


def _decisive(settings: dict[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in settings.items() if path.split(".")[0] not in LISTS}
