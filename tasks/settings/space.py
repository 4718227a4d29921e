"""The space of a sweep: which settings its cells have, over any parameter of `SECTIONS` by its name
in params.yaml.

A space has one form: a grid, a list of cells, the cells of a preset, seeded draws, or a search.
Each gives cells of one method and one size. Imports no PyTorch: values are checked where a cell is
loaded (flows/sweeps/work.py).
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.core.foundations.names import hint
from tasks.settings import variants
from tasks.settings.overrides import assign, text_of, word_of
from tasks.settings.sets import EQUAL_BYTES, RANDOM

SECTIONS = (
    "seed",
    "budgets",
    "methods",
    "embed_captions",
    "model",
    "train_experts",
    "select_coresets",
    "distill",
    "evaluate",
)
METHODS, BUDGETS = "methods", "budgets"
DISTILLERS, CORESETS = "methods.distillers", "methods.coresets"
MAX_CELLS = 10_000
MAX_TEXT = 40  # characters of a value in the name of a cell
Settings = dict[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Model):
    """Values between two ends; whole numbers where both ends are."""

    low: int | float = Field(description="Smallest value.")
    high: int | float = Field(description="Largest value.")
    log: bool = Field(False, description="Draw the logarithm evenly, for step sizes.")

    @model_validator(mode="after")
    def _check(self) -> Range:
        is_finite = math.isfinite(self.low) and math.isfinite(self.high)
        if not is_finite or self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"received low {self.low}, high {self.high}; allowed are finite numbers, low below "
                "high, and with `log` above 0"
            )
        return self

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, generator: random.Random) -> int | float:
        """Return one value."""
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        if self.is_whole and not self.log:
            return generator.randint(int(self.low), int(self.high))
        # A whole number on a log scale is drawn as a real one and rounded below
        value = generator.uniform(*ends)
        return self.rounded(math.exp(value) if self.log else value)

    def rounded(self, value: float) -> int | float:
        """Return a value inside the range, with as many digits as a person writes."""
        # Six digits may round to a value outside of the range; the last line brings it back
        value = round(value) if self.is_whole else float(f"{value:.6g}")
        return min(max(value, self.low), self.high)


Axes = dict[str, list[Any] | Range]


class Draws(_Model):
    """Seeded random draws."""

    count: int = Field(ge=1, le=MAX_CELLS, description="Number of cells.")
    seed: int = Field(0, ge=0, description="Equal seeds draw equal cells.")
    over: Axes = Field(
        min_length=1, description="{section.key: [choices] or {low, high, log}}, to draw from."
    )


class Search(Draws):
    """A search by Optuna (TPE), for the highest validation recall."""

    num_startup: int = Field(8, ge=1, description="Cells drawn at random before the search begins.")
    is_pruned: bool = Field(
        True,
        description="Stop a cell whose first student has less validation recall than the median of "
        "those before it.",
    )


class Space(_Model):
    """Which cells a sweep has: by at most one of its fields. By none they are methods x sizes."""

    grid: dict[str, list[Any]] = Field(
        {}, description="{section.key: [values]}: every combination is a cell."
    )
    cells: list[Settings] = Field([], description="[{section.key: value}]: each is a cell.")
    preset: str | None = Field(None, description="A table of presets.yaml, by its name.")
    random: Draws | None = Field(None, description="Seeded draws: {count, seed, over}.")
    search: Search | None = Field(
        None, description="A search by Optuna: {count, seed, over, num_startup, is_pruned}."
    )

    @model_validator(mode="after")
    def _check(self) -> Space:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"received {', '.join(given)}; allowed is one of them")
        return self

    @property
    def kind(self) -> str:
        """The field that is given."""
        return next((name for name in type(self).model_fields if getattr(self, name)), "grid")


@dataclass(frozen=True)
class Cell:
    """One setting of a sweep: a method at a size, and what else it changes.

    Attributes:
        settings: all that it sets, as a variant of the profile (tasks/settings/variants.py).
        swept: the part that tells it from other cells of the sweep.
    """

    name: str
    settings: Settings
    swept: Settings

    @property
    def id(self) -> str:
        """Digest of the settings: a cell of equal settings is the same cell, in any sweep."""
        return hashlib.sha256(text_of(self.settings).encode()).hexdigest()[:10]

    @property
    def variant(self) -> str:
        """The setting that names it to a flow."""
        return f"variant={text_of(self.settings)}"


def space_of(raw: Any, where: str) -> Space:
    """Return the typed space.

    Raises:
        ValueError: an unknown key, a wrong type, or two forms at once.
    """
    try:
        return raw if isinstance(raw, Space) else Space.model_validate(raw)
    except ValidationError as error:
        # An axis has two forms, and each tells its own fault: the form that was meant is taken
        first = max(
            error.errors(), key=lambda found: (found["type"] == "value_error", len(found["loc"]))
        )
        parts = [str(part) for part in first["loc"] if part not in ("list[any]", "Range")]
        place = ".".join([where, *parts])
        meant = hint(parts[-1], Space.model_fields) if first["type"] == "extra_forbidden" else ""
        told = f"received {first['input']!r:.200}{meant}: {first['msg']}"
        if first["type"] == "value_error":
            told = str(first["ctx"]["error"])
        raise ValueError(
            f"{place}: {told}; allowed is one of {', '.join(Space.model_fields)}, see "
            "docs/sweeps.md; change it there or with --set"
        ) from error


def cells_of(
    space: Space, tree: dict[str, Any], methods: Sequence[str] = (), sizes: Sequence[int] = ()
) -> list[Cell]:
    """Return the cells of a space in order, each once; those of a search are asked for one by one
    (`cells_with`).

    Args:
        tree: raw parameters with the user's own settings (tasks/settings/tree.py).
        methods, sizes: only these; none takes all that the cells or the profile name.

    Raises:
        ValueError: a name that params.yaml does not have or that no sweep changes, too many cells,
            or none.
    """
    found: dict[str, Cell] = {}
    for named, settings in _combinations(space, tree):
        for cell in cells_with(settings, tree, methods, sizes, named):
            found.setdefault(cell.id, cell)
        # Within the loop, so that a huge space is refused before it fills the memory
        if len(found) > MAX_CELLS:
            _check_count(len(found))
    if not found:
        raise ValueError(
            "the sweep has no cell: no cell has a method and a size that were asked for; change "
            "--method, --num-pairs or `sweep`"
        )
    return _named_apart(found.values())


def cells_with(
    settings: Settings,
    tree: dict[str, Any],
    methods: Sequence[str] = (),
    sizes: Sequence[int] = (),
    prefix: str = "",
) -> list[Cell]:
    """Return the cells of one setting: each of its methods at each of its sizes.

    Args:
        settings: {section.key: value}; `methods` and `budgets` may name one or a list.
        tree, methods, sizes: see `cells_of`.
        prefix: opens the names of the cells: the name of a preset's cell.

    Raises:
        ValueError: a key that params.yaml does not have, or methods or sizes that are no list.
    """
    settings = {_path(name): _listed(name, value) for name, value in settings.items()}
    changed = _assigned(settings, tree)
    names = [name for name in changed[METHODS]["distillers"] if name in (methods or [name])]
    own = changed["profiles"][changed["profile"]][BUDGETS]
    budgets = [size for size in own if size in (sizes or [size])]
    swept = {path: value for path, value in settings.items() if not _is_list(path)}
    labels = _labels(swept)
    # Coresets beside a cell: random pairs of its number, which are in every table, and of its bytes
    # where the profile names that method
    beside = [RANDOM, *(name for name in changed[METHODS]["coresets"] if name == EQUAL_BYTES)]
    made = []
    for method, size in itertools.product(names, budgets):
        # One method and one size: everything else of the profile belongs to other cells
        lists = {CORESETS: beside, DISTILLERS: [method], BUDGETS: [size]}
        words = [f"{labels[path]}={word_of(value)[:MAX_TEXT]}" for path, value in swept.items()]
        # A cell of a preset has a name; others are named by the values that they set
        name = " ".join([prefix or "", f"{method}-{size}", *([] if prefix else words)]).strip()
        made.append(Cell(name, {**settings, **lists}, {**swept, METHODS: method, BUDGETS: size}))
    return made


def extremes(axes: Axes) -> list[Settings]:
    """Return settings that have every choice and both ends of every range, each at least once."""
    # In step, not combined: all combinations of the ends could be thousands
    values = {name: _ends(axis) for name, axis in axes.items()}
    longest = max(map(len, values.values()))
    return [
        {name: found[place % len(found)] for name, found in values.items()}
        for place in range(longest)
    ]


def check_axes(names: Iterable[str]) -> None:
    """Refuse names that no sweep changes.

    Raises:
        ValueError: see above.
    """
    for name in names:
        section = name.partition(".")[0]
        if section not in SECTIONS:
            raise ValueError(
                f"sweep: received {name!r}{hint(section, SECTIONS)}; allowed are parameters of "
                f"{', '.join(SECTIONS)}; change `sweep`, or give the value by --set"
            )


def _combinations(space: Space, tree: dict[str, Any]) -> Iterable[tuple[str, Settings]]:
    """Yield (name, settings) of each cell before methods and sizes; names are those of a preset."""
    if space.preset is not None:
        found = variants.find(variants.presets_of(tree), space.preset)
        yield from found.cells.items()
    elif space.random is not None:
        check_axes(space.random.over)
        generator = random.Random(space.random.seed)
        for _ in range(space.random.count):
            yield "", {name: _draw(axis, generator) for name, axis in space.random.over.items()}
    elif space.cells:
        for settings in space.cells:
            check_axes(settings)
            yield "", settings
    else:
        # An empty grid has one combination, without settings: the sweep is methods x sizes
        check_axes(space.grid)
        _check_count(math.prod(map(len, space.grid.values())))
        for values in itertools.product(*space.grid.values()):
            yield "", dict(zip(space.grid, values, strict=True))


def _check_count(number: int) -> None:
    if not 0 < number <= MAX_CELLS:
        raise ValueError(
            f"sweep: received a space of {number} cells; allowed are 1 to {MAX_CELLS}; change the "
            "lists of `sweep`"
        )


def _draw(axis: list[Any] | Range, generator: random.Random) -> Any:
    return axis.draw(generator) if isinstance(axis, Range) else generator.choice(axis)


def _ends(axis: list[Any] | Range) -> list[Any]:
    return [axis.low, axis.high] if isinstance(axis, Range) else list(axis)


def _path(name: str) -> str:
    """Return where params.yaml has what `methods` and `budgets` stand for."""
    return DISTILLERS if name == METHODS else name


def _labels(paths: Iterable[str]) -> dict[str, str]:
    """Return what the name of a cell calls each path: its last word, or all of it where two paths
    end alike.
    """
    last = {path: path.rpartition(".")[2] for path in paths}
    counts = Counter(last.values())
    return {path: word if counts[word] == 1 else path for path, word in last.items()}


def _listed(name: str, value: Any) -> Any:
    """Return one method or size as the list of it that params.yaml takes."""
    is_single = name in (METHODS, BUDGETS) and not isinstance(value, list)
    return [value] if is_single else value


def _is_list(path: str) -> bool:
    return path.partition(".")[0] in (METHODS, BUDGETS)


def _assigned(settings: Settings, tree: dict[str, Any]) -> dict[str, Any]:
    """Return the profile and the methods with the settings; the tree stays as it is."""
    profile = tree["profile"]
    changed = copy.deepcopy(
        {
            "profile": profile,
            METHODS: tree[METHODS],
            "profiles": {profile: tree["profiles"][profile]},
        }
    )
    for path, value in settings.items():
        assign(changed, path, copy.deepcopy(value), f"sweep: {path}")
    for place, found in (
        (DISTILLERS, changed[METHODS]["distillers"]),
        (BUDGETS, changed["profiles"][profile][BUDGETS]),
    ):
        if not isinstance(found, list):
            raise ValueError(
                f"sweep: {place}: received {found!r}; allowed is one of them, or a list"
            )
    return changed


def _named_apart(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells with different names: values that are cut may look alike."""
    cells, seen = list(cells), set[str]()
    named = []
    for cell in cells:
        name = f"{cell.name} ({cell.id})" if cell.name in seen else cell.name
        seen.add(name)
        named.append(Cell(name, cell.settings, cell.swept))
    return named
