"""The only reader of params.yaml: typed sections of the chosen profile, `--set` overrides, and errors that say where.

`load()` gives a `Params`; each stage takes from it the sections that its entry in `tasks/stages.py` names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from tasks.core import plugins
from tasks.core.matching_config import MatchingConfig
from tasks.core.section import Range, Section
from tasks.core.sections import EvaluateSection, ExpertSection, ModelSection, ReportSection, StudentSection
from tasks.overrides import override

PARAMS = Path("params.yaml")


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
        return f"tasks.core.{self.kind}.{self.name}"

    def as_params(self) -> dict[str, Any]:
        """Name and options as plain values, for cache keys and tracking."""
        return {"name": self.name, "options": asdict(self.config)}


@dataclass(frozen=True, kw_only=True)
class PrepareSection(Section):
    """`prepare_data`: `image_size` px of the stored squares; `max_pixels` that a raw image may have."""

    image_size: Annotated[int, Range(ge=8, le=1024, unit="px")]
    max_pixels: Annotated[int, Range(ge=64, unit="px")]


@dataclass(frozen=True, kw_only=True)
class General(Section):
    """Of a whole profile: the seed of everything, and the sizes of coresets and distilled sets in pairs."""

    seed: Annotated[int, Range(ge=0)]
    budgets: tuple[Annotated[int, Range(ge=2, unit="pairs")], ...]


@dataclass(frozen=True)
class Student:
    """A further student of `evaluate.cross_architecture`; `input_size` None takes images as prepared."""

    image_encoder: Plugin
    model: ModelSection
    input_size: int | None


@dataclass(frozen=True)
class Params:
    """Everything a run is told, valid. `student` names the further student whose encoder and model these are, see `as_student`."""

    profile: str
    general: General
    dataset: Plugin
    prepare_data: PrepareSection
    text_encoder: Plugin
    image_encoder: Plugin
    model: ModelSection
    train_experts: ExpertSection
    coresets: dict[str, Plugin]
    distillers: dict[str, Plugin]
    evaluate: EvaluateSection
    students: dict[str, Student]
    report: ReportSection
    student: str | None = None

    @property
    def seed(self) -> int:
        return self.general.seed

    @property
    def model_name(self) -> str:
        """Name of encoder and trainable set in folders and tables, for example `mobilenetv2_100-heads`; a further student's own."""
        return self.student or f"{self.image_encoder.module.label(self.image_encoder.config)}-{self.model.trainable}"

    @property
    def input_size(self) -> int | None:
        """Pixels of a side that images are resized to for the encoder; None takes them as prepared."""
        return None if self.student is None else self.students[self.student].input_size

    def as_student(self, name: str) -> Params:
        """Return these parameters with the encoder and the model of a further student in place of the distilled ones."""
        chosen = self.students[name]
        return replace(self, image_encoder=chosen.image_encoder, model=chosen.model, student=name)

    def space(self, stage: str) -> str:
        """Name of the folder that holds this profile's artifacts of a stage."""
        return self.profile

    @property
    def digest(self) -> str:
        """Digest of everything, for the report and tracking."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def sets(self) -> list[tuple[str, int]]:
        """(method, pairs) of every small set, coresets first."""
        return [(method, size) for method in (*self.coresets, *self.distillers) for size in self.general.budgets]


def load(overrides: Sequence[str] = (), *, path: Path = PARAMS) -> Params:
    """Read params.yaml, apply `section.key=value` overrides (relative to the profile, or from the top) and validate.

    Raises:
        ValueError: an unknown key, name or type, a value out of range, or sections that contradict each other.
        FileNotFoundError: no params.yaml in the working directory.
    """
    tree = read_tree(path)
    for setting in overrides:
        override(tree, setting)
    return parse(tree, str(path))


def read_tree(path: Path = PARAMS) -> dict[str, Any]:
    """Return the raw tree of params.yaml."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not in {Path.cwd()}; run from the top folder of the repository")
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold sections, received {type(tree).__name__}")
    return tree


def parse(tree: dict[str, Any], where: str = "params.yaml") -> Params:
    """Validate a raw tree; see `load`."""
    top = _keys(tree, ("profile", "methods", "profiles"), where)
    names = sorted(top["profiles"])
    name = top["profile"]
    if name not in names:
        raise ValueError(f"{where}: unknown profile {name!r}; available: {', '.join(names)}; change `profile`")
    root = f"{where}: profiles.{name}"
    body = _keys(top["profiles"][name], _SECTIONS, root)
    methods = _keys(top["methods"], ("coresets", "distillers"), f"{where}: methods")
    dataset, prepare = _plugin("datasets", body["prepare_data"], "dataset", f"{root}.prepare_data")
    text, rest = _plugin("text_encoders", body["embed_captions"], "text_encoder", f"{root}.embed_captions")
    _keys(rest, (), f"{root}.embed_captions")
    image, rest = _plugin("image_encoders", body["model"], "image_encoder", f"{root}.model")
    model = _section(ModelSection, rest, f"{root}.model")
    evaluate, students = _students(body["evaluate"], model, f"{root}.evaluate")
    params = Params(
        profile=name,
        general=_section(General, {"seed": body["seed"], "budgets": body["budgets"]}, root),
        dataset=dataset,
        prepare_data=_section(PrepareSection, prepare, f"{root}.prepare_data"),
        text_encoder=text,
        image_encoder=image,
        model=model,
        train_experts=_section(ExpertSection, body["train_experts"], f"{root}.train_experts"),
        coresets=_methods("coresets", methods["coresets"], body["select_coresets"], f"{root}.select_coresets"),
        distillers=_distillers(methods["distillers"], body["distill"], f"{root}.distill"),
        evaluate=_section(EvaluateSection, evaluate, f"{root}.evaluate"),
        students=students,
        report=_section(ReportSection, body["report"], f"{root}.report"),
    )
    _cross_check(params, root)
    return params


_SECTIONS = (
    "seed", "budgets", "prepare_data", "embed_captions", "model", "train_experts", "select_coresets", "distill", "evaluate", "report",
)  # fmt: skip


def _keys(value: Any, allowed: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(allowed):
        received = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else repr(value)
        raise ValueError(f"{where}: received the keys {received or 'none'}; allowed and needed: {', '.join(sorted(allowed)) or 'none'}")
    return value


def _section(kind: Any, value: Any, where: str) -> Any:
    """Validate plain values against a section class; JSON mode, so that lists may fill tuples, and nothing else is cast."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part) for part in first["loc"])])
        raise ValueError(f"{place}: received {first['input']!r}: {first['msg']}; change it there or with --set") from error


def _plugin(kind: str, section: Any, key: str, where: str) -> tuple[Plugin, dict[str, Any]]:
    if not isinstance(section, dict) or key not in section or "options" not in section:
        raise ValueError(f"{where}: received {section!r}; it needs `{key}` (a name) and `options`")
    rest = {name: value for name, value in section.items() if name not in (key, "options")}
    return _typed(kind, section[key], section["options"], where), rest


def _typed(kind: str, name: Any, options: Any, where: str) -> Plugin:
    module = plugins.load(kind, name, where=where)
    return Plugin(kind, name, _section(module.Config, options if options is not None else {}, f"{where}.options"))


def _students(section: Any, main: ModelSection, where: str) -> tuple[dict[str, Any], dict[str, Student]]:
    """Split `evaluate` into its own section and its further students (`cross_architecture`)."""
    if not isinstance(section, dict) or not isinstance(section.get("cross_architecture"), dict):
        raise ValueError(f"{where}: received {section!r}; it needs `cross_architecture`, a mapping of further students, {{}} for none")
    students = {}
    for name, value in section["cross_architecture"].items():
        place = f"{where}.cross_architecture.{name}"
        if not re.fullmatch(r"(?!seed_|gallery$)[A-Za-z0-9][A-Za-z0-9._-]*", str(name)):
            raise ValueError(f"{place}: received the name {name!r}; allowed are letters, digits, `.`, `_`, `-`, not `gallery` or `seed_*`")
        image, rest = _plugin("image_encoders", value, "image_encoder", place)
        own = _section(StudentSection, rest, place)
        model = replace(main, trainable=own.trainable, lora=own.lora, embed_dim=own.embed_dim)
        _check_model(model, place)
        students[str(name)] = Student(image, model, own.input_size)
    return {key: value for key, value in section.items() if key != "cross_architecture"}, students


def _distillers(chosen: Any, section: Any, where: str) -> dict[str, Plugin]:
    """The distillation methods: `matching` holds what all trajectory-matching methods share, a method's own options overlay it."""
    section = _keys(section, ("matching", "options"), where)
    shared = _keys(section["matching"], [field.name for field in fields(MatchingConfig)], f"{where}.matching")
    options = section["options"]
    if isinstance(options, dict):
        options = {name: _overlay(name, shared, own, where) for name, own in options.items()}
    return _methods("distillers", chosen, {"options": options}, where)


def _overlay(name: str, shared: dict[str, Any], own: Any, where: str) -> Any:
    is_matching = issubclass(plugins.load("distillers", name, where=where).Config, MatchingConfig)
    return {**shared, **own} if is_matching and isinstance(own, dict) else own


def _methods(kind: str, chosen: Any, section: Any, where: str) -> dict[str, Plugin]:
    options = _keys(section, ("options",), where)["options"]
    if not isinstance(chosen, list) or not isinstance(options, dict) or len(set(map(str, chosen))) != len(chosen):
        raise ValueError(
            f"{where}: methods.{kind} must be a list of different names and `options` a mapping; received {chosen!r}, {options!r}"
        )
    typed = {name: _typed(kind, name, value, f"{where} ({name})") for name, value in options.items()}
    for name in chosen:
        plugins.load(kind, name, where=f"methods.{kind} of params.yaml")
        if name not in typed:
            raise ValueError(f"{where}.options: no entry for the method {name!r} of methods.{kind}; received {', '.join(typed) or 'none'}")
    return {name: typed[name] for name in chosen}


def _cross_check(params: Params, root: str) -> None:
    """Refuse sections that contradict each other before anything is computed."""
    model, budgets = params.model, params.general.budgets
    if not budgets or list(budgets) != sorted(set(budgets)):
        raise ValueError(f"{root}.budgets: received {budgets}; allowed are different sizes in ascending order")
    _check_model(model, f"{root}.model")
    if params.model_name in params.students:
        raise ValueError(f"{root}.evaluate.cross_architecture: received {params.model_name!r}, the name of `model` itself; choose another")
    if model.is_encoder_frozen and not params.train_experts.augment.is_off:
        raise ValueError(
            f"{root}.train_experts.augment: the image encoder is frozen ({model.trainable}), so its features are computed once "
            "without augmentation; set crop_scale 1.0, flip false, randaugment_ops 0"
        )
    if "random" not in params.coresets:
        raise ValueError("methods.coresets: random selection is in every table; add `random`")
    for name, plugin in params.distillers.items():
        check = getattr(plugin.module, "check", None)
        if check is not None:
            check(
                plugin.config, params.train_experts.num_epochs, budgets, trainable=model.trainable, where=f"{root}.distill.options.{name}"
            )


def _check_model(model: ModelSection, where: str) -> None:
    examples = {"heads": ("embed_dim", "512"), "lora": ("lora", "{rank: 4, alpha: 4.0, targets: [attn.qkv, attn.proj, fc1, fc2]}")}
    for trainable, (key, example) in examples.items():
        value = getattr(model, key)
        if (model.trainable == trainable) != (value is not None):
            raise ValueError(
                f"{where}.{key}: received {value} with trainable {model.trainable!r}; `{trainable}` needs {example} or such, others null"
            )
