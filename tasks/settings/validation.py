"""Raw sections of params.yaml -> typed values: unknown keys, wrong types and values out of range
are refused with their place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

from pydantic import StringConstraints, TypeAdapter, ValidationError

from tasks.core.distillation.matching_config import MatchingConfig, OuterConfig
from tasks.core.evaluation.students import EvaluateSection
from tasks.core.evaluation.transfer import StudentSection
from tasks.core.foundations import plugins
from tasks.core.foundations.names import check_name
from tasks.core.foundations.plugins import available
from tasks.core.foundations.section import Range, Section
from tasks.core.networks.dual_encoder import ModelSection
from tasks.settings.faults import first_fault
from tasks.settings.files import keys_of
from tasks.settings.sets import ENDINGS, FULL, SetName


@dataclass(frozen=True)
class Plugin:
    """A chosen plugin: its kind (`datasets`, ...), name and typed options."""

    kind: str
    name: str
    config: Any

    @property
    def module(self) -> Any:
        """The plugin's module."""
        return plugins.load(self.kind, self.name)

    @property
    def module_name(self) -> str:
        """The dotted name of the plugin's module, for code digests."""
        return plugins.module_name(self.kind, self.name)

    @property
    def needs_experts(self) -> bool:
        """Whether a distillation method reads experts: it does, unless its options say no."""
        return bool(getattr(self.config, "needs_experts", True))

    @property
    def parts(self) -> int:
        """Parts a side of the pictures that a distillation method makes."""
        return int(getattr(self.config, "parts", 1))

    @property
    def named(self) -> list[Plugin]:
        """The methods that the options of this method name, and those that they name in turn."""
        found = []
        for part in _named_in(self.config).values():
            one = Plugin(self.kind, part.method, part.options)
            found += [one, *one.named]
        return found

    @property
    def label(self) -> str:
        """The name of an encoder with these options, in folders and tables."""
        label: str = self.module.label(self.config)
        return label

    def as_params(self) -> dict[str, Any]:
        """Name and options as plain values, for cache keys and tracking."""
        return {"name": self.name, "options": asdict(self.config)}


@dataclass(frozen=True, kw_only=True)
class PrepareSection(Section):
    """`prepare_data`: `image_size` px of the stored squares; `max_pixels` that a raw image may
    have; `max_left_out`, the share of pictures, rows and members that may be unusable.
    """

    image_size: Annotated[int, Range(ge=8, le=1024, unit="px")]
    max_pixels: Annotated[int, Range(ge=64, unit="px")]
    max_left_out: Annotated[float, Range(ge=0.0, lt=1.0)]


@dataclass(frozen=True, kw_only=True)
class General(Section):
    """Values of a whole profile: the seed of everything, and the sizes of coresets and distilled
    sets in pairs.
    """

    seed: Annotated[int, Range(ge=0)]
    budgets: tuple[Annotated[int, Range(ge=2, unit="pairs")], ...]


@dataclass(frozen=True)
class Student:
    """A further student of `evaluate.cross_architecture`; `input_size` None takes images as
    prepared. `evaluate` has its own recipes.
    """

    image_encoder: Plugin
    model: ModelSection
    input_size: int | None
    evaluate: EvaluateSection


def section_of(kind: Any, value: Any, where: str) -> Any:
    """Return plain values as a section or options class.

    Args:
        kind: the class.
        value: what YAML gave.
        where: its place, which opens messages.

    Raises:
        ValueError: a value that JSON does not have, an unknown key, a wrong type, or out of range.
    """
    # As JSON: in strict mode only that form lets a list fill a tuple, and casts nothing else
    try:
        plain = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{where}: received {value!r}: {error}; allowed are text, numbers, lists and "
            "mappings; put a date in quotes"
        ) from error
    try:
        return TypeAdapter(kind).validate_json(plain, strict=True)
    except ValidationError as error:
        below, told = first_fault(error, kind)
        place = ".".join([where, *below])
        raise ValueError(f"{place}: {told}; change it there or with --set") from error


def plugin_of(kind: str, section: Any, key: str, where: str) -> tuple[Plugin, dict[str, Any]]:
    """Return the plugin that `key` of a section names, with its options, and what else the section
    holds.
    """
    if not isinstance(section, dict) or key not in section or "options" not in section:
        raise ValueError(f"{where}: received {section!r}; it needs `{key}` (a name) and `options`")
    rest = {name: value for name, value in section.items() if name not in (key, "options")}
    plugins.load(kind, section[key], where=f"{where}.{key}")
    return _typed(kind, section[key], section["options"], f"{where}.options"), rest


def _typed(kind: str, name: Any, options: Any, where: str) -> Plugin:
    module = plugins.load(kind, name, where=where)
    config = section_of(module.Config, {} if options is None else options, where)
    if kind == "distillers":
        config = _with_named(config, where)
    return Plugin(kind, name, config)


def _with_named(config: Any, where: str) -> Any:
    """Return options in which a part that names another method has that method's typed options.

    What a part does not say it shares with the options around it.
    """
    around = asdict(config)
    for name, part in _named_in(config).items():
        place = f"{where}.{name}"
        own = part.options
        if not isinstance(own, dict):
            raise ValueError(
                f"{place}.options: received {own!r}; allowed is a mapping of options of "
                f"{part.method}; change it there or with --set"
            )
        kind = plugins.load("distillers", part.method, where=f"{place}.method").Config
        shared = {field.name: around[field.name] for field in fields(kind) if field.name in around}
        # A part of a part would be typed already in `around`
        shared.pop(name, None)
        typed = _typed("distillers", part.method, {**shared, **own}, f"{place}.options")
        config = replace(config, **{name: replace(part, options=typed.config)})
    return config


def _named_in(config: Any) -> dict[str, Any]:
    """Return the parts of a method's options that name another method, by their field."""
    parts = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: part for name, part in parts.items() if hasattr(part, "method")}


def students_of(
    section: Any, main: ModelSection, where: str
) -> tuple[EvaluateSection, dict[str, Student]]:
    """Return the section `evaluate` and its further students (`cross_architecture`)."""
    if not isinstance(section, dict) or not isinstance(section.get("cross_architecture"), dict):
        raise ValueError(
            f"{where}: received {section!r}; it needs `cross_architecture`, a mapping of further "
            "students, {} for none"
        )
    students = {}
    shared = {key: value for key, value in section.items() if key != "cross_architecture"}
    evaluate = section_of(EvaluateSection, shared, where)
    for name, value in section["cross_architecture"].items():
        place = f"{where}.cross_architecture.{name}"
        check_name(name, "student", place)
        if name == "gallery" or name.startswith("seed_"):
            raise ValueError(
                f"{place}: received the student {name!r}; `gallery` and `seed_*` are folders "
                "beside those of students; choose another name"
            )
        image, rest = plugin_of("image_encoders", value, "image_encoder", place)
        # What a further student does not say, such as the temperature, is that of the main one
        recipes = {key: _changed(shared[key], rest.pop(key, {})) for key in ("small", "full")}
        own = section_of(StudentSection, rest, place)
        model = replace(main, trainable=own.trainable, lora=own.lora, embed_dim=own.embed_dim)
        check_model(model, place)
        its_own = section_of(EvaluateSection, {**shared, **recipes}, place)
        students[name] = Student(image, model, own.input_size, its_own)
    return evaluate, students


def _changed(recipe: dict[str, Any], own: Any) -> Any:
    """Return a recipe of `evaluate` with the values that a further student changes. What is no
    mapping is refused where it is typed.
    """
    return {**recipe, **own} if isinstance(own, dict) else own


def distillers_of(chosen: Any, section: Any, where: str) -> dict[str, Plugin]:
    """The distillation methods: each takes from `matching` the options that it has, and its own
    overlay them.
    """
    section = keys_of(section, ("matching", "options"), where)
    shared = keys_of(
        section["matching"], [field.name for field in fields(MatchingConfig)], f"{where}.matching"
    )
    options = section["options"]
    if isinstance(options, dict) and isinstance(chosen, list):
        # A method without an entry of its own has what is shared
        without = set(plugins.available("distillers")).intersection(map(str, chosen)) - set(options)
        options = {**{name: {} for name in sorted(without)}, **options}
        # An empty entry says no more than none
        options = {
            name: _overlay(name, shared, {} if own is None else own, where)
            for name, own in options.items()
        }
    return methods_of("distillers", chosen, {"options": options}, where)


def _overlay(name: str, shared: dict[str, Any], own: Any, where: str) -> Any:
    config = plugins.load("distillers", name, where=where).Config
    # Other methods share no options; what is no mapping is refused where it is typed
    if not issubclass(config, OuterConfig) or not isinstance(own, dict):
        return own
    read = {field.name for field in fields(config)}
    return {**{key: value for key, value in shared.items() if key in read}, **own}


def methods_of(kind: str, chosen: Any, section: Any, where: str) -> dict[str, Plugin]:
    options = keys_of(section, ("options",), where)["options"]
    if not isinstance(options, dict):
        raise ValueError(
            f"{where}.options: received {options!r:.200}; allowed is a mapping of each method to "
            "its options, {} for none; change it in params.yaml"
        )
    if not isinstance(chosen, list) or len(set(map(str, chosen))) != len(chosen):
        raise ValueError(
            f"methods.{kind}: received {chosen!r:.200}; allowed is a list of different names, such "
            f"as [{plugins.available(kind)[0]}]; change it in params.yaml or with --set"
        )
    for name in chosen:
        plugins.load(kind, name, where=f"methods.{kind} of params.yaml")
    # A method without options needs no entry. Options of other methods are checked too: a mistake
    # there would wait for the day when the method is chosen.
    given = {**dict.fromkeys(chosen), **options}
    typed = {
        name: _typed(kind, name, value, f"{where}.options.{name}") for name, value in given.items()
    }
    return {name: typed[name] for name in chosen}


def imported_of(chosen: Any, budgets: Sequence[int], where: str) -> tuple[SetName, ...]:
    """The sets that were imported; random selection of the same size has to be beside each."""
    if not isinstance(chosen, list) or len(set(map(str, chosen))) != len(chosen):
        raise ValueError(f"{where}: received {chosen!r}; allowed is a list of different names")
    try:
        found = [SetName.parse(str(name)) for name in chosen]
    except ValueError as error:
        raise ValueError(f"{where}: {error}, as in [theirs-20]") from error
    for name in found:
        check_name(name.method, "set", where)
        taken = {FULL, *available("coresets"), *available("distillers")}
        endings = " or ".join(f"`{ending}`" for ending in ENDINGS)
        if name.num_pairs not in budgets or name.method in taken or name.ending:
            raise ValueError(
                f"{where}: received {str(name)!r}; allowed is a name that no method has, not "
                f"`{FULL}`, without {endings} at its end, and a size of `budgets` "
                f"({', '.join(map(str, budgets))}), so that random selection of that size "
                "is beside it; change `budgets` of the profile, or import it by another name"
            )
    return tuple(found)


def check_model(model: ModelSection, where: str) -> None:
    examples = {
        "heads": ("embed_dim", "512"),
        "lora": ("lora", "{rank: 4, alpha: 4.0, targets: [attn.qkv, attn.proj, fc1, fc2]}"),
    }
    for trainable, (key, example) in examples.items():
        value = getattr(model, key)
        if (model.trainable == trainable) != (value is not None):
            raise ValueError(
                f"{where}.{key}: received {value} with trainable {model.trainable!r}; "
                f"`{trainable}` needs {example} or such, others null; change {key} or trainable "
                "there or with --set"
            )


@dataclass(frozen=True, kw_only=True)
class ReportSection(Section):
    """What the report shows beside the tables.

    Attributes:
        dataset: the name that scores are compared under: in titles, beside published numbers, and
            as MLflow's experiment. Profiles of one dataset share it.
        gallery_pairs: pairs of each distilled set in its gallery.
    """

    dataset: Annotated[str, StringConstraints(min_length=1)]
    gallery_pairs: Annotated[int, Range(ge=1, le=200, unit="pairs")]
