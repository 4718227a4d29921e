"""Studies of presets.yaml: students with other heads on the sets of a profile.

A study trains heads on a frozen encoder, and changes nothing that distils. So experts and sets stay
those of the profile, and its students have folders of their own, `<profile>+<study>`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tasks import stages
from tasks.core.evaluation.students import RecipeSection
from tasks.core.foundations.names import hint
from tasks.core.foundations.section import Range, Rate, Section
from tasks.settings import steps
from tasks.settings.files import PARAMS, PRESETS, keys_of, read
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.settings.validation import section_of

Width = Annotated[int, Range(ge=1, le=16384)]
HiddenLayers = Annotated[int, Range(ge=0, le=8)]
Tau = Annotated[float, Range(gt=0.0, le=10.0)]
# A student more than one: the ceiling of a ranking is full data against full data reseeded.
NumStudents = Annotated[int, Range(ge=2, unit="students")]
SEARCH, COMPUTE = "architecture_search", "fixed_compute"


@dataclass(frozen=True, kw_only=True)
class SearchSection(Section):
    """`architecture_search`: every combination of these heads, ranked by each set.

    Attributes:
        embed_dim: widths of the shared space.
        hidden_layers: hidden layers of each projection; the paper has one.
        lr: step sizes of both projections.
        tau: temperatures.
        num_students: of each head and set.
    """

    embed_dim: tuple[Width, ...]
    hidden_layers: tuple[HiddenLayers, ...]
    lr: tuple[Rate, ...]
    tau: tuple[Tau, ...]
    num_students: NumStudents


@dataclass(frozen=True, kw_only=True)
class ComputeSection(Section):
    """`fixed_compute`: every width with every set, trained for as many epochs as a level pays for.

    Attributes:
        embed_dim: widths of the shared space.
        random_pairs: sizes of random selection; the full data and all distilled sets are beside.
        gigaflops: the levels, in 1e9 operations of training a student.
        num_students: of each cell.
    """

    embed_dim: tuple[Width, ...]
    random_pairs: tuple[Annotated[int, Range(ge=2, unit="pairs")], ...]
    gigaflops: tuple[Annotated[float, Range(gt=0.0)], ...]
    num_students: NumStudents


SECTIONS: dict[str, type[Section]] = {SEARCH: SearchSection, COMPUTE: ComputeSection}


@dataclass(frozen=True)
class Study:
    """A study with its values of one profile."""

    name: str
    title: str
    section: Any


@dataclass(frozen=True)
class Head:
    """The head of a student: two projections into a space of `embed_dim`, and how they train."""

    embed_dim: int
    hidden_layers: int
    lr: float
    tau: float

    @property
    def name(self) -> str:
        """Its name in folders and tables."""
        return f"w{self.embed_dim}-h{self.hidden_layers}-lr{self.lr:g}-tau{self.tau:g}"


def titles(path: Path = PARAMS) -> dict[str, str]:
    """Return the title of each study in presets.yaml beside params.yaml."""
    return {name: str(body["title"]) for name, body in _held(path).items()}


def load(name: str, params: Params, path: Path = PARAMS) -> Study:
    """Return a study with the values that presets.yaml holds for the profile of the parameters.

    Raises:
        ValueError: no such study, no values for the profile, or no method that distils; a value
            that is not allowed; a list without an entry or with one twice.
    """
    held, profile = _held(path), params.profile
    if name not in held:
        raise ValueError(
            f"unknown study {name!r}{hint(name, held)}; available: {', '.join(held)}; see "
            f"`studies` of {PRESETS}"
        )
    where = f"{PRESETS}: studies.{name}"
    values = held[name]["profiles"]
    if not isinstance(values, dict) or profile not in values:
        known = list(map(str, values)) if isinstance(values, dict) else []
        raise ValueError(
            f"{where}: received the profile {profile!r}{hint(profile, known)}; allowed are those "
            f"with values there: {', '.join(known) or 'none'}; add it there or choose one with "
            "--profile"
        )
    if not params.distillers:
        raise ValueError(
            f"methods.distillers: received none; the study {name!r} needs at least one, since it "
            "compares distilled sets with real pairs; change it in params.yaml"
        )
    place = f"{where}.profiles.{profile}"
    section = section_of(SECTIONS[name], values[profile], place)
    for key, value in vars(section).items():
        if isinstance(value, tuple) and (not value or len(set(value)) != len(value)):
            raise ValueError(
                f"{place}.{key}: received {list(value)}; allowed are different values, at least one"
            )
    return Study(name, str(held[name]["title"]), section)


def _held(path: Path) -> dict[str, Any]:
    where = path.with_name(PRESETS)
    held = read(where).get("studies")
    found = keys_of(held, tuple(SECTIONS), f"{where}: studies")
    for name, body in found.items():
        keys_of(body, ("title", "profiles"), f"{where}: studies.{name}")
    return found


def network(params: Params, head: Head) -> steps.Network:
    """Return the network of a head on the frozen encoder of the profile.

    Sets are transferred to it, so that learned step sizes of another head are not taken.
    """
    # A study trains heads on features, also where the profile trains the encoder
    model = replace(
        params.model, trainable="heads", lora=None, embed_dim=head.embed_dim, tau=head.tau
    )
    return replace(
        steps.network(params),
        name=head.name,
        model=model,
        is_further=True,
        hidden_layers=head.hidden_layers,
    )


def start(params: Params, study: Study) -> steps.Start:
    """Return what is told about the features of a profile that trains its encoder."""
    label = params.image_encoder.label
    # Whatever the head, features are the same
    frozen = network(params, Head(1, 1, params.evaluate.full.lr_img, params.model.tau))
    folder = _folder(params, study, SetName(steps.START)) / label
    return steps.Start(folder, replace(frozen, name=label))


def evaluation(
    params: Params, study: Study, set_name: SetName, head: Head, recipe: RecipeSection, *level: str
) -> steps.Evaluation:
    """Return what `evaluate` is told about a head on a set.

    Args:
        recipe: of this student, whatever the set.
        level: part of its folder.
    """
    section = replace(params.evaluate, small=recipe, full=recipe)
    folder = _folder(params, study, set_name).joinpath(head.name, *level)
    augment = params.train_experts.augment
    return steps.Evaluation(folder, set_name, network(params, head), section, augment)


def _folder(params: Params, study: Study, set_name: SetName) -> Path:
    space = f"{params.space('evaluate', set_name)}+{study.name}"
    return stages.folder("evaluate", space, str(set_name))
