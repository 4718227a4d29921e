"""Presets of presets.yaml: tables of the paper as named cells, each a variant of the profile by a
few settings.

A cell is {section.key: value}. It shares with the profile every artifact that builds on no changed
section. `Variant.changed` names the changed sections, and `Params.space` gives the other artifacts
folders of their own. Two cells share a folder where they agree in all that its artifacts build on,
whatever else they change (`Variant.label`).
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tasks.core.foundations.names import hint
from tasks.settings.files import keys_of
from tasks.settings.overrides import assign, text_of, value_of

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
TITLE, EVERY, CELLS = "title", "every", "cells"
# What these hold is a list of artifacts, each with its own key; it says nothing about how one of
# them is made.
LISTS = ("methods", "budgets")
# Part of `evaluate`, and for variants a section of its own: further students change nothing of the
# scores of the main one.
STUDENTS = "cross_architecture"
UNNAMED = "sweep"  # what stands for the preset of a variant that is settings alone


@dataclass(frozen=True)
class Variant:
    """A few settings on top of a profile: one cell of a preset, or settings without a name.

    Attributes:
        preset, cell: its names; `UNNAMED` and a digest of the settings for those without.
        settings: what it sets, {section.key: value}.
        changed: names of the sections that the settings change; `STUDENTS` may be one.
        cells: the settings of all cells of all presets, by `<preset>-<cell>`.
        sections: the sections of the profile with the settings.
    """

    preset: str
    cell: str
    settings: dict[str, Any]
    changed: tuple[str, ...]
    cells: dict[str, dict[str, Any]] = field(compare=False, repr=False)
    sections: dict[str, Any] = field(compare=False, repr=False)

    @property
    def place(self) -> str:
        """Where a user changes it, for messages."""
        if self.preset == UNNAMED:
            return f"in the settings {text_of(self.settings)}"
        return f"in the cell {self.preset}/{self.cell} of presets.yaml"

    def label(self, sections: Collection[str]) -> str:
        """Return the folder name of artifacts that build on `sections`.

        It is the name of the first cell that sets the same values in these sections. Without such a
        cell it is a digest of all that the sections hold.
        """
        # Cells that differ elsewhere alone share a folder, so that one of them gives it its name
        wanted = _of_sections(self.settings, sections)
        for name, settings in self.cells.items():
            if _of_sections(settings, sections) == wanted:
                return name
        held = {
            name: value
            for name, value in self.sections.items()
            if name in sections and name not in LISTS
        }
        return _digest(held)


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
    unknown = sorted(set(own) - set(profiles), key=str)
    if unknown:
        raise ValueError(
            f"{where}: profiles: received {_hinted(unknown, profiles)}; allowed are the profiles "
            f"of params.yaml: {', '.join(map(str, profiles))}"
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
            f"profiles.{tree['profile']}.presets: received {_hinted(unknown, tree['presets'])}; "
            "allowed are presets that `presets` at the top has: "
            f"{', '.join(tree['presets'])}; change presets.yaml"
        )
    return {
        name: _preset(name, body, own.get(name))
        for name, body in _mapping(tree["presets"], "presets").items()
    }


def apply(tree: dict[str, Any], name: str) -> Variant:
    """Change a raw tree, in place, to a variant of its profile, and return the variant.

    Args:
        name: `<preset>/<cell>`, or settings without a name, `{section.key: value}`.

    Raises:
        ValueError: no such preset or cell, or a setting of a key that params.yaml does not have.
    """
    presets = presets_of(tree)
    if name.lstrip().startswith("{"):
        settings = _settings(name)
        preset, cell, where = UNNAMED, _digest(settings), "variant"
    else:
        preset, _, cell = name.partition("/")
        settings, where = _cell(presets, preset, cell), f"presets.{preset}.{cell}"
    profile = tree["profiles"][tree["profile"]]
    before = copy.deepcopy(profile)
    for path, value in settings.items():
        # A copy: two cells may hold the same list through a YAML alias
        assign(tree, path, copy.deepcopy(value), f"{where}: {path}")
    # Both states are read with the cell's methods. Otherwise the choice of another method alone
    # would look like a change of its options.
    methods = tree["methods"]
    distillers = methods.get("distillers") if isinstance(methods, dict) else None
    before, after = _sections(before, distillers), _sections(profile, distillers)
    changed = tuple(key for key in after if key not in LISTS and after[key] != before.get(key))
    # Cells of all presets: tables that train the same experts share them
    named = {
        f"{name}-{one}": settings
        for name, body in presets.items()
        for one, settings in body.cells.items()
    }
    return Variant(preset, cell, settings, changed, named, after)


def _cell(presets: dict[str, Preset], preset: str, cell: str) -> dict[str, Any]:
    cells = find(presets, preset).cells
    if cell not in cells:
        raise ValueError(
            f"preset {preset!r}: received the cell {cell!r}{hint(cell, cells)}; allowed: "
            f"{', '.join(cells)}; write {preset}/{next(iter(cells))}, or change `presets` of "
            "presets.yaml"
        )
    return cells[cell]


def _settings(text: str) -> dict[str, Any]:
    found = value_of(text, "--set variant")
    if not isinstance(found, dict) or "profile" in found:
        raise ValueError(
            f"--set variant: received {text}; allowed is {{section.key: value}} without `profile`; "
            "name the profile by --profile"
        )
    return {str(path): value for path, value in found.items()}


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(text_of(settings).encode()).hexdigest()[:10]


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
    # A profile replaces the cells of a table as a whole; `every` holds for its cells too
    cells = _mapping(body[CELLS] if own is None else own, where)
    for part in (name, *cells):
        if not isinstance(part, str) or not NAME.fullmatch(part):
            raise ValueError(
                f"{where}: received the name {part!r}; allowed are small letters, digits and "
                "`_`, since it names a folder; put a name that looks like a number in quotes"
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


def _hinted(unknown: Collection[str], known: Collection[str]) -> str:
    return ", ".join(f"{name}{hint(name, known)}" for name in unknown)


def _sections(profile: dict[str, Any], distillers: Any) -> dict[str, Any]:
    """Return the sections of a profile: the further students apart from the rest of `evaluate`, and
    of `distill` only what the chosen methods read.
    """
    evaluate, distill = profile["evaluate"], profile["distill"]
    options = distill.get("options") if isinstance(distill, dict) else None
    if not (
        isinstance(evaluate, dict) and isinstance(options, dict) and isinstance(distillers, list)
    ):
        return profile  # refused where sections are read
    rest = {key: value for key, value in evaluate.items() if key != STUDENTS}
    own = {name: value for name, value in options.items() if name in distillers}
    return {
        **profile,
        "evaluate": rest,
        STUDENTS: evaluate.get(STUDENTS),
        "distill": {**distill, "options": own},
    }


def _of_sections(settings: dict[str, Any], sections: Collection[str]) -> dict[str, Any]:
    return {
        path: value
        for path, value in settings.items()
        if _section_of(path) in sections and _section_of(path) not in LISTS
    }


def _section_of(path: str) -> str:
    section, *rest = path.split(".")
    return STUDENTS if section == "evaluate" and rest[:1] == [STUDENTS] else section
