"""The only reader of params.yaml and presets.yaml: typed sections of the chosen profile, `--set`
overrides, and errors that say where.

`load()` gives a `Params`; each stage takes from it the sections that its entry in `tasks/stages.py`
names.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks import stages
from tasks.core.evaluation.students import EvaluateSection
from tasks.core.foundations.names import check_name, hint
from tasks.core.networks.dual_encoder import ModelSection
from tasks.core.training.experts import ExpertSection
from tasks.settings import variants
from tasks.settings.beginnings import check_beginnings, sizes
from tasks.settings.files import PARAMS, keys_of
from tasks.settings.overrides import TOP
from tasks.settings.places import as_set
from tasks.settings.sets import SetName, ceilings
from tasks.settings.stores import check_store
from tasks.settings.tree import VARIANT, overridden
from tasks.settings.tree import read_tree as read_tree
from tasks.settings.validation import (
    General,
    Plugin,
    PrepareSection,
    ReportSection,
    Student,
    check_model,
    distillers_of,
    imported_of,
    methods_of,
    plugin_of,
    section_of,
    students_of,
)
from tasks.settings.variants import Preset, Variant


@dataclass(frozen=True)
class Params:
    """All parameters of a run, validated.

    Attributes:
        variant: the cell of a preset that these parameters belong to; None for the profile itself.
        student: the further student that `image_encoder` and `model` describe, see `as_student`;
            None for the main student.
    """

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
    imported: tuple[SetName, ...]
    evaluate: EvaluateSection
    students: dict[str, Student]
    report: ReportSection
    variant: Variant | None = None
    student: str | None = None

    @property
    def seed(self) -> int:
        return self.general.seed

    @property
    def experts(self) -> range:
        """Numbers of the experts that a run reads: all where a distiller reads experts. Otherwise
        only the first one, since coresets are selected in its space.
        """
        is_read = any(method.needs_experts for method in self.distillers.values())
        return range(self.train_experts.num_experts if is_read else 1)

    @property
    def model_name(self) -> str:
        """Name of encoder and trainable set in folders and tables, for example
        `mobilenetv2_100-heads`; a further student's own.
        """
        return self.student or f"{self.image_encoder.label}-{self.model.trainable}"

    @property
    def input_size(self) -> int | None:
        """Pixels of a side that images are resized to for the encoder; None takes them as
        prepared.
        """
        return None if self.student is None else self.students[self.student].input_size

    def as_student(self, name: str) -> Params:
        """Return these parameters with encoder, model and recipes of a further student in place of
        the main one's.
        """
        chosen = self.students[name]
        return replace(
            self,
            image_encoder=chosen.image_encoder,
            model=chosen.model,
            evaluate=chosen.evaluate,
            student=name,
        )

    def space(self, stage: str, set_name: SetName | None = None) -> str:
        """Return the name of the folder that holds the artifacts of a stage: `<profile>`, or
        `<profile>+<variant>` where a section that the variant changes had a part in them.

        Args:
            set_name: for evaluate, the set that is scored: a change of distillation leaves coresets
                and full data as they are.
        """
        without: tuple[str, ...] = ()
        if set_name is not None:
            # A set builds on the one stage that makes it, and the full data on neither
            sources = {"select_coresets": self.coresets, "distill": self.distillers}
            without = tuple(
                name for name, methods in sources.items() if set_name.method not in methods
            )
        if self.variant is None:
            return self.profile
        # The main student's scores do not depend on further students
        sections = stages.sections_of(stage, without=without) | (
            {variants.STUDENTS} if self.student else frozenset()
        )
        return (
            f"{self.profile}+{self.variant.label(sections)}"
            if sections.intersection(self.variant.changed)
            else self.profile
        )

    @property
    def digest(self) -> str:
        """Digest of all parameters, for the report and tracking. Of a variant only its name and its
        settings count.
        """
        # A `Variant` also holds the cells of all presets; a new preset must not change this digest
        named = (
            [self.variant.preset, self.variant.cell, self.variant.settings]
            if self.variant
            else None
        )
        return hashlib.sha256(
            json.dumps(
                {**asdict(replace(self, variant=None)), "variant": named}, sort_keys=True
            ).encode()
        ).hexdigest()

    @property
    def sets(self) -> list[SetName]:
        """Names of all small sets, coresets first."""
        return [
            SetName(method, size)
            for method in (*self.coresets, *self.distillers)
            for size in self.general.budgets
        ]

    def again(self, name: SetName) -> list[SetName]:
        """Return the names by which a set is scored a further time; coresets other than random
        pairs are not.
        """
        asked = self.evaluate
        return name.again(decoded=asked.decoded, plain=asked.plain, augmented=asked.augmented)

    @property
    def ceilings(self) -> list[SetName]:
        """Names of the ceilings of linear heads that are asked for. A trained image encoder has no
        fixed features, so there are none.
        """
        if not (self.evaluate.ceilings and self.model.is_encoder_frozen):
            return []
        return ceilings(self.general.budgets)


def load(
    overrides: Sequence[str] = (), *, variant: str | None = None, path: Path = PARAMS
) -> Params:
    """Read params.yaml, apply `section.key=value` overrides (relative to the profile, or from the
    top) and validate.

    Args:
        variant: a cell of a preset, `<preset>/<cell>`, applied after the overrides.
            `variant=<preset>/<cell>` among the overrides is the same, so that every flow takes it.
            `{section.key: value}` in its place is a variant without a name.

    Raises:
        ValueError: an unknown key, name or type, a value out of range, or sections that contradict
            each other.
        FileNotFoundError: no params.yaml in the working directory, or no presets.yaml beside it.
    """
    tree, named = overridden(overrides, path)
    return parse(tree, str(path), variant or named)


def presets(overrides: Sequence[str] = (), *, path: Path = PARAMS) -> dict[str, Preset]:
    """Return the presets in presets.yaml of the profile that params.yaml or the overrides
    choose.
    """
    tree = overridden(overrides, path)[0]
    _profile_of(tree, str(path))
    return variants.presets_of(tree)


def load_cells(
    preset: str, overrides: Sequence[str] = (), *, path: Path = PARAMS
) -> dict[str, Params]:
    """Return the valid parameters of every cell of a preset.

    Raises:
        ValueError: no such preset, or a cell that is not valid; see `load`.
    """
    tree, named = overridden(overrides, path)
    if named is not None:
        raise ValueError(
            f"the preset {preset!r} sets the variant of each of its cells; received "
            f"{VARIANT}={named} as well; leave it out"
        )
    _profile_of(tree, str(path))
    found = variants.find(variants.presets_of(tree), preset)
    # `parse` changes the tree in place, so that each cell gets its own copy
    return {cell: parse(copy.deepcopy(tree), str(path), f"{preset}/{cell}") for cell in found.cells}


def parse(tree: dict[str, Any], where: str = "params.yaml", variant: str | None = None) -> Params:
    """Return the valid parameters of a raw tree; see `load`.

    Args:
        tree: is changed in place to the variant.
        where: name of the file, which opens messages.
        variant: a cell or settings, see `load`; None takes the profile as it is.

    Raises:
        ValueError: see `load`.
    """
    top = _profile_of(tree, where)
    # Before anything below reads the tree: a variant may change every section
    chosen = variants.apply(tree, variant) if variant else None
    with as_set(top["profiles"][top["profile"]], chosen):
        return _typed(top, where, chosen)


def _typed(top: dict[str, Any], where: str, variant: Variant | None) -> Params:
    """Return the parameters of a raw tree that a variant has changed already."""
    name, body = top["profile"], top["profiles"][top["profile"]]
    root = f"{where}: profiles.{name}"
    methods = keys_of(top["methods"], ("coresets", "distillers", "imported"), f"{where}: methods")
    dataset, prepare = plugin_of(
        "datasets", body["prepare_data"], "dataset", f"{root}.prepare_data"
    )
    text, rest = plugin_of(
        "text_encoders", body["embed_captions"], "text_encoder", f"{root}.embed_captions"
    )
    # This section has no values beside its encoder
    keys_of(rest, (), f"{root}.embed_captions")
    image, rest = plugin_of("image_encoders", body["model"], "image_encoder", f"{root}.model")
    # Labels of encoders become names of folders
    for plugin, section in ((text, "embed_captions"), (image, "model")):
        check_name(plugin.module.label(plugin.config), "encoder", f"{root}.{section}.options.name")
    model = section_of(ModelSection, rest, f"{root}.model")
    evaluate, students = students_of(body["evaluate"], model, f"{root}.evaluate")
    # In this order: `imported` reads the raw `budgets`, which `general` has checked by then
    params = Params(
        profile=name,
        general=section_of(General, {"seed": body["seed"], "budgets": body["budgets"]}, root),
        dataset=dataset,
        prepare_data=section_of(PrepareSection, prepare, f"{root}.prepare_data"),
        text_encoder=text,
        image_encoder=image,
        model=model,
        train_experts=section_of(ExpertSection, body["train_experts"], f"{root}.train_experts"),
        coresets=methods_of(
            "coresets", methods["coresets"], body["select_coresets"], f"{root}.select_coresets"
        ),
        distillers=distillers_of(methods["distillers"], body["distill"], f"{root}.distill"),
        imported=imported_of(methods["imported"], body["budgets"], f"{where}: methods.imported"),
        evaluate=evaluate,
        students=students,
        report=section_of(ReportSection, body["report"], f"{root}.report"),
        variant=variant,
    )
    _cross_check(params, root)
    return params


_SECTIONS = (
    "seed",
    "budgets",
    "prepare_data",
    "embed_captions",
    "model",
    "train_experts",
    "select_coresets",
    "distill",
    "evaluate",
    "report",
    "presets",
)


def _profile_of(tree: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the tree once all its sections are there, and all those of the chosen profile."""
    top = keys_of(tree, TOP, where)
    check_store(top["store"], where)
    if not isinstance(top["profiles"], dict):
        raise ValueError(
            f"{where}: profiles: received {top['profiles']!r}; allowed is a mapping of profiles"
        )
    for profile in top["profiles"]:
        check_name(profile, "profile", f"{where}: profiles")
    chosen, names = top["profile"], sorted(top["profiles"])
    if chosen not in names:
        raise ValueError(
            f"{where}: unknown profile {chosen!r}{hint(chosen, names)}; available: "
            f"{', '.join(names)}; change `profile`"
        )
    keys_of(top["profiles"][top["profile"]], _SECTIONS, f"{where}: profiles.{top['profile']}")
    return top


def _cross_check(params: Params, root: str) -> None:
    """Refuse sections that contradict each other before anything is computed."""
    model, budgets = params.model, params.general.budgets
    if not budgets or list(budgets) != sorted(set(budgets)):
        raise ValueError(
            f"{root}.budgets: received {budgets}; allowed are different sizes in ascending order"
        )
    check_model(model, f"{root}.model")
    if params.model_name in params.students:
        raise ValueError(
            f"{root}.evaluate.cross_architecture: received {params.model_name!r}, the name of "
            "`model` itself; choose another"
        )
    if model.is_encoder_frozen and not params.train_experts.augment.is_off:
        raise ValueError(
            f"{root}.train_experts.augment: the image encoder is frozen ({model.trainable}), so "
            "its features are computed once "
            "without augmentation; set crop_scale 1.0, flip false, randaugment_ops 0"
        )
    if "random" not in params.coresets:
        raise ValueError("methods.coresets: random selection is in every table; add `random`")
    for name, plugin in params.distillers.items():
        where = f"{root}.distill.options.{name}"
        _check_experts(params, plugin, where, root)
        _check_parts(params, plugin, where, root)
        check_beginnings(plugin.config, params.imported, budgets, where)
        # What a method demands of its own options is in its own file
        check = getattr(plugin.module, "check", None)
        if check is not None:
            check(
                plugin.config,
                params.train_experts.num_epochs,
                sizes(plugin.config, budgets),
                trainable=model.trainable,
                where=where,
            )


def _check_experts(params: Params, plugin: Plugin, where: str, root: str) -> None:
    """Refuse a method that works between more experts than are trained."""
    num_experts = params.train_experts.num_experts
    for method in (plugin, *plugin.named):
        least = getattr(method.config, "min_experts", 1)
        if num_experts < least:
            raise ValueError(
                f"{root}.train_experts.num_experts: received {num_experts}; {method.name} "
                f"({where}) needs at least {least}; raise it, or leave the method out of "
                "methods.distillers"
            )


def _check_parts(params: Params, plugin: Plugin, where: str, root: str) -> None:
    """Refuse pictures that are larger than the data, and parts that do not divide a picture. A
    method and those that it names have the same.
    """
    size = params.prepare_data.image_size
    own: int | None = getattr(plugin.config, "picture_size", None)
    if own is not None and own > size:
        raise ValueError(
            f"{where}.picture_size: received {own} with data of {size} px "
            f"({root}.prepare_data.image_size); allowed is at most that, or null; change one of "
            "both"
        )
    if (own or size) % plugin.parts:
        raise ValueError(
            f"{where}.parts: received {plugin.parts} with pictures of {own or size} px "
            f"(picture_size there, or {root}.prepare_data.image_size); allowed is a number that "
            "divides them; change one of both"
        )
