"""Presets of presets.yaml: tables of the paper as named cells, each a variant of the profile by a
few settings.

A cell is {section.key: value}. What it does not change it shares with the profile itself:
`Variant.changed` names the sections that are not the profile's, and `Params.space` puts only what
builds on those into folders of their own. Cells that agree in what an artifact builds on share its
folder, whatever else they change (`Variant.label`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tasks.core.foundations.names import hint
from tasks.settings.overrides import assign
from tasks.settings.validation import keys_of

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
TITLE, EVERY, CELLS = "title", "every", "cells"
# What these hold is a list of artifacts, each with its own key; it says nothing about how one of
# them is made.
LISTS = ("methods", "budgets")
# Part of `evaluate`, and for variants a section of its own: further students change nothing of the
# scores of the main one.
STUDENTS = "cross_architecture"


@dataclass(frozen=True)
class Variant:
    """One cell of a preset, applied to a profile.

    Attributes:
        preset, cell: its names.
        settings: what it sets, {section.key: value}.
        changed: sections of the profile that are not the profile's own any more; `STUDENTS` is one.
        cells: the settings of all cells of all presets, by `<preset>-<cell>`.
    """

    preset: str
    cell: str
    settings: dict[str, Any]
    changed: tuple[str, ...]
    cells: dict[str, dict[str, Any]] = field(compare=False, repr=False)

    def label(self, sections: Collection[str]) -> str:
        """Return the name, in folders, of what builds on `sections`: that of the first cell with
        the same settings of all of them.
        """
        wanted = _of_sections(self.settings, sections)
        return next(
            name
            for name, settings in self.cells.items()
            if _of_sections(settings, sections) == wanted
        )


@dataclass(frozen=True)
class Preset:
    """A table: its title, and the settings of each cell, {section.key: value}."""

    title: str
    cells: dict[str, dict[str, Any]]


def join(tree: dict[str, Any], held: dict[str, Any], where: str) -> dict[str, Any]:
    """Put the presets of presets.yaml into the raw tree of params.yaml, in place, and return it:
    tables at the top, and in each profile the cells that it replaces.

    Raises:
        ValueError: presets.yaml is not {presets, profiles, studies}, names a profile that
            params.yaml does not have, or params.yaml holds presets too.
    """
    keys_of(held, ("presets", "profiles", "studies"), where)
    own, profiles = _mapping(held["profiles"], f"{where}: profiles"), tree.get("profiles")
    if not isinstance(profiles, dict):  # refused where sections are read
        return tree
    unknown = sorted(set(own) - set(profiles))
    if unknown:
        raise ValueError(
            f"{where}: profiles: received {', '.join(unknown)}; allowed are the profiles of "
            f"params.yaml: {', '.join(profiles)}"
        )
    bodies = {name: body for name, body in profiles.items() if isinstance(body, dict)}
    if any("presets" in body for body in (tree, *bodies.values())):
        raise ValueError(f"params.yaml: received `presets`; move it to {where}")
    tree["presets"] = held["presets"]
    for name, body in bodies.items():
        body["presets"] = own.get(name, {})
    return tree


def presets_of(tree: dict[str, Any]) -> dict[str, Preset]:
    """Return the presets of the chosen profile, which may replace the cells of any of them by its
    own.

    Raises:
        ValueError: a preset is not {title, every, cells}, a cell no mapping, or a name is unfit for
            a folder.
    """
    own = tree["profiles"][tree["profile"]]["presets"]
    unknown = sorted(
        set(_mapping(own, f"profiles.{tree['profile']}.presets")) - set(tree["presets"])
    )
    if unknown:
        raise ValueError(
            f"profiles.{tree['profile']}.presets: received {', '.join(unknown)}; allowed are "
            "presets that `presets` at the top has: "
            f"{', '.join(tree['presets'])}; change presets.yaml"
        )
    return {
        name: _preset(name, body, own.get(name))
        for name, body in _mapping(tree["presets"], "presets").items()
    }


def apply(tree: dict[str, Any], name: str) -> Variant:
    """Change a raw tree, in place, to the cell `<preset>/<cell>` of its profile.

    Raises:
        ValueError: no such preset or cell, or a setting of a key that params.yaml does not have.
    """
    presets = presets_of(tree)
    preset, _, cell = name.partition("/")
    cells = find(presets, preset).cells
    if cell not in cells:
        raise ValueError(
            f"preset {preset!r}: received the cell {cell!r}{hint(cell, cells)}; allowed: "
            f"{', '.join(cells)}; change `presets` of presets.yaml"
        )
    profile = tree["profiles"][tree["profile"]]
    before = copy.deepcopy(profile)
    for path, value in cells[cell].items():
        assign(tree, path, copy.deepcopy(value), f"presets.{preset}.{cell}: {path}")
    before, after = _sections(before), _sections(profile)
    changed = tuple(key for key in after if key not in LISTS and after[key] != before.get(key))
    named = {
        f"{name}-{one}": settings
        for name, body in presets.items()
        for one, settings in body.cells.items()
    }
    return Variant(preset, cell, cells[cell], changed, named)


def find(presets: dict[str, Preset], name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ValueError: there is none; the message lists those that are.
    """
    if name not in presets:
        raise ValueError(
            f"unknown preset {name!r}{hint(name, presets)}; available: {', '.join(presets)}; see "
            "`presets` of presets.yaml"
        )
    return presets[name]


def _preset(name: str, body: Any, own: Any) -> Preset:
    where = f"presets.{name}"
    if set(_mapping(body, where)) != {TITLE, EVERY, CELLS}:
        raise ValueError(
            f"{where}: received the keys {', '.join(map(str, body))}; allowed and needed: "
            f"{CELLS}, {EVERY}, {TITLE}"
        )
    every = _mapping(body[EVERY], f"{where}.{EVERY}")
    cells = _mapping(body[CELLS] if own is None else own, where)
    for part in (name, *cells):
        if not NAME.fullmatch(str(part)):
            raise ValueError(
                f"{where}: received the name {part!r}; allowed are small letters, digits and "
                "`_`, since it names a folder"
            )
    return Preset(
        str(body[TITLE]),
        {
            cell: {**every, **_mapping(settings, f"{where}.{cell}")}
            for cell, settings in cells.items()
        },
    )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or "profile" in value:
        raise ValueError(
            f"{where}: received {value!r}; allowed is a mapping without `profile`, {{}} for "
            "none; change it in presets.yaml"
        )
    return value


def _sections(profile: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a profile, the further students apart from the rest of `evaluate`."""
    evaluate = profile["evaluate"]
    if not isinstance(evaluate, dict):  # refused where sections are read
        return profile
    rest = {key: value for key, value in evaluate.items() if key != STUDENTS}
    return {**profile, "evaluate": rest, STUDENTS: evaluate.get(STUDENTS)}


def _of_sections(settings: dict[str, Any], sections: Collection[str]) -> dict[str, Any]:
    return {
        path: value
        for path, value in settings.items()
        if _section_of(path) in sections and _section_of(path) not in LISTS
    }


def _section_of(path: str) -> str:
    section, *rest = path.split(".")
    return STUDENTS if section == "evaluate" and rest[:1] == [STUDENTS] else section
