"""What a stage task is told: its own sections, and the folder that its artifacts go to.

A function for each stage takes it from `Params`, so that no task knows the sections of another.
What a task reads is the other half of its arguments (`tasks/keys.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tasks import stages
from tasks.core.evaluation.students import EvaluateSection
from tasks.core.networks.dual_encoder import ModelSection
from tasks.core.training.augment import AugmentSection
from tasks.core.training.experts import ExpertSection
from tasks.settings.beginnings import beginning
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.settings.validation import Plugin, PrepareSection

START = "start"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Network:
    """What a dual encoder is built from: the distilled one, or that of a further student.

    Attributes:
        profile: name of the profile of params.yaml.
        name: its name in folders and tables.
        is_further: whether it belongs to a further student; sets are transferred to such a network.
        input_size: pixels of a side that images are resized to; None takes them as prepared.
        hidden_layers: of each projection; studies vary them.
    """

    profile: str
    name: str
    image_encoder: Plugin
    model: ModelSection
    seed: int
    is_further: bool
    input_size: int | None
    hidden_layers: int = 1


@dataclass(frozen=True)
class Preparation:
    """What `prepare_data` is told; `budgets` are checked against the training split.

    Attributes:
        starts: number of images that the largest set of a method starts from, by method. Only
            methods that make pictures of parts are in it.
    """

    folder: Path
    dataset: Plugin
    section: PrepareSection
    budgets: tuple[int, ...]
    starts: dict[str, int]


@dataclass(frozen=True)
class Embedding:
    """What `embed_captions` is told."""

    folder: Path
    text_encoder: Plugin


@dataclass(frozen=True)
class Start:
    """What is told about the start of a network: that of the experts, or a further student's."""

    folder: Path
    network: Network


@dataclass(frozen=True)
class Training:
    """What `train_experts` is told; `folder` holds a folder for each expert."""

    folder: Path
    network: Network
    section: ExpertSection


@dataclass(frozen=True)
class Selection:
    """What `select_coresets` is told about one coreset; `experts` is the recipe of the warm-up."""

    folder: Path
    set_name: SetName
    network: Network
    method: Plugin
    experts: ExpertSection


@dataclass(frozen=True)
class Distillation:
    """What `distill` is told about one set; `begins_with` is the finished set that it goes on
    from.
    """

    folder: Path
    set_name: SetName
    network: Network
    method: Plugin
    begins_with: SetName | None

    def read(self, experts: Sequence[Item]) -> Sequence[Item]:
        """Return those of the experts that the method reads: all of them, or none."""
        return experts if self.method.needs_experts else ()


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` is told about one set and one network.

    Attributes:
        folder: holds a folder for each trained student.
        augment: of the full data; small sets are not augmented.
    """

    folder: Path
    set_name: SetName
    network: Network
    section: EvaluateSection
    augment: AugmentSection


@dataclass(frozen=True)
class Showing:
    """What `evaluate` is told about the gallery of one distilled set."""

    folder: Path
    set_name: SetName
    gallery_pairs: int


@dataclass(frozen=True)
class Reporting:
    """What `report` is told.

    Attributes:
        dataset: its name in titles and beside published numbers.
        models: names of the image encoder with its trainable set, and of the text encoder.
        parameters_hash: digest of all parameters of the profile.
    """

    profile: str
    dataset: str
    models: tuple[str, str]
    protocol: str
    num_students: int
    parameters_hash: str
    gallery_pairs: int


def network(params: Params) -> Network:
    """Return the network of the parameters: a further student's where they are `as_student`."""
    return Network(
        params.profile,
        params.model_name,
        params.image_encoder,
        params.model,
        params.seed,
        params.student is not None,
        params.input_size,
    )


def preparation(params: Params) -> Preparation:
    """Return what `prepare_data` is told."""
    folder = stages.folder("prepare_data", params.space("prepare_data"))
    budgets, starts = params.general.budgets, dict[str, int]()
    for name, method in params.distillers.items():
        if method.parts > 1:
            # A method may give one pair back to pay for its learned similarity
            num_returned = int(getattr(method.config, "is_budget_compensated", False))
            # A picture of `parts` a side shows `parts**2` real images
            starts[name] = (budgets[-1] - num_returned) * method.parts**2
    return Preparation(folder, params.dataset, params.prepare_data, budgets, starts)


def embedding(params: Params) -> Embedding:
    """Return what `embed_captions` is told."""
    label = params.text_encoder.label
    folder = stages.folder("embed_captions", params.space("embed_captions"), label)
    return Embedding(folder, params.text_encoder)


def start(params: Params) -> Start:
    """Return what is told about the start of a network."""
    # Experts start there: it lies in their folder, which no change of evaluation renames
    if params.student is None:
        return Start(training(params).folder / START, network(params))
    # No method has this name, so that no change of coresets or distillation renames the folder
    space = params.space("evaluate", SetName(START))
    folder = stages.folder("evaluate", space, START, params.student)
    return Start(folder, network(params))


def training(params: Params) -> Training:
    """Return what `train_experts` is told."""
    folder = stages.folder("train_experts", params.space("train_experts"), params.model_name)
    return Training(folder, network(params), params.train_experts)


def selection(params: Params, set_name: SetName) -> Selection:
    """Return what `select_coresets` is told about a coreset."""
    folder = stages.folder("select_coresets", params.space("select_coresets"), str(set_name))
    method = params.coresets[set_name.method]
    return Selection(folder, set_name, network(params), method, params.train_experts)


def distillation(params: Params, set_name: SetName) -> Distillation:
    """Return what `distill` is told about a set; its methods have a folder each, for DVC."""
    folder = stages.folder("distill", params.space("distill"), set_name.method, str(set_name))
    method = params.distillers[set_name.method]
    begins_with = beginning(method.config, set_name)
    return Distillation(folder, set_name, network(params), method, begins_with)


def imported(params: Params, set_name: SetName) -> Path:
    """Return the folder of an imported set."""
    return stages.DATA.joinpath("imported", params.profile, str(set_name))


def evaluation(params: Params, set_name: SetName) -> Evaluation:
    """Return what `evaluate` is told about a set, under the network of the parameters."""
    further = [params.student] if params.student else []
    folder = _scores(params, set_name).joinpath(*further)
    augment = params.train_experts.augment
    return Evaluation(folder, set_name, network(params), params.evaluate, augment)


def showing(params: Params, set_name: SetName) -> Showing:
    """Return what `evaluate` is told about the gallery of a set."""
    return Showing(_scores(params, set_name) / "gallery", set_name, params.report.gallery_pairs)


def reporting(params: Params) -> Reporting:
    """Return what `report` is told."""
    return Reporting(
        params.profile,
        params.report.dataset,
        (params.model_name, params.text_encoder.label),
        params.evaluate.protocol,
        params.evaluate.num_eval,
        params.digest,
        params.report.gallery_pairs,
    )


def _scores(params: Params, set_name: SetName) -> Path:
    return stages.folder("evaluate", params.space("evaluate", set_name), str(set_name))
