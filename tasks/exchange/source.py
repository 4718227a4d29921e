"""What an export is made of: a stored set, what it was made from, and the scores of its students.

Everything comes from the artifacts and their manifests: an export tells what was stored, not what
params.yaml says today.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tasks.core.data.storage import load_split
from tasks.core.foundations.file_names import INITIAL, NAMES, SCORE
from tasks.core.foundations.names import hint
from tasks.core.foundations.records import Split
from tasks.core.foundations.tensor_files import load_tensors
from tasks.core.training.pair_files import load_pairs
from tasks.core.training.pair_set import PairSet
from tasks.exchange.asked import Made, differences_of_set
from tasks.search import nearest
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.settings.sets import DECODED, SetName
from tasks.store import artifacts
from tasks.store.manifests import Manifest


@dataclass(frozen=True)
class Part:
    """A verified artifact."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class Inputs:
    """The artifacts of the profile that an imported set has to fit."""

    prepared: Part
    embeddings: Part
    start: Part


@dataclass(frozen=True)
class Origin:
    """Where a text comes from, with its image: the real pair it is, or began as.

    Attributes:
        file_name: of the picture in the dataset.
        caption_number: of the caption among those of its picture, from 0.
        nearest_sentence, cosine: the training caption that is nearest to the text.
    """

    split: str
    file_name: str
    caption_number: int
    caption: str
    nearest_sentence: str
    cosine: float


@dataclass(frozen=True)
class Source:
    """A stored set with all that an export says of it.

    Attributes:
        dataset: the name that scores are compared under.
        is_coreset: whether its pairs are real ones.
        initial: `images` and `text_embeds` that a distilled set began as; None for a coreset.
        students: their scores, by seed; empty where the set was not scored.
        in_words: the scores of students of the decoded set, which has the nearest training
            sentences as its texts; empty where it was not scored.
        small: `evaluate.small` of params.yaml. A set that was not scored names it as its recipe.
    """

    name: SetName
    dataset: str
    is_coreset: bool
    pairs: PairSet
    initial: dict[str, Tensor] | None
    own: Part
    prepared: Part
    embeddings: Part
    start: Part
    students: tuple[Part, ...]
    in_words: tuple[Part, ...]
    small: dict[str, Any]

    def split(self, name: str) -> Split:
        """Return a split of the dataset."""
        return load_split(self.prepared.folder, self.embeddings.folder, name)

    def origins(self) -> list[Origin]:
        """Return where each text comes from, and its nearest training sentence."""
        train = self.split("train")
        names = pd.read_parquet(self.prepared.folder / NAMES)
        # Numbered from 0 within the split, as `image_idx` counts
        names = names.loc[names["split"] == "train", "name"].reset_index(drop=True)
        cosines, index = nearest(self.pairs.text_embeds, train.text_embeds)
        owners = train.caption_image_idx
        found = []
        for row, caption in enumerate(self.pairs.provenance["caption_idx"]):
            image = int(owners[caption])
            # Captions of an image lie side by side, so that its first row counts them from 0
            first = int(torch.searchsorted(owners, image))
            sentence = train.captions[int(index[row, 0])]
            text, cosine = train.captions[caption], round(float(cosines[row, 0]), 6)
            found.append(Origin("train", names[image], caption - first, text, sentence, cosine))
        return found

    def scores(self) -> list[dict[str, Any]]:
        """Return the scores of the students, by seed."""
        return _scores(self.students)

    def scores_in_words(self) -> list[dict[str, Any]]:
        """Return the scores of the students of `in_words`, by seed."""
        return _scores(self.in_words)

    @property
    def recipe(self) -> dict[str, Any]:
        """How students were trained, or would be today when none was."""
        found: dict[str, Any] = (
            self.students[0].manifest.params["recipe"] if self.students else self.small
        )
        return found


def open_source(params: Params, name: str) -> Source:
    """Return a set of the profile with all that its export needs.

    Args:
        name: as folders name it, `<method>-<num_pairs>`.

    Raises:
        ValueError: no such set in the parameters; an artifact that is damaged, or not the one that
            the set was made from; a set of other parameters; scores under more than one recipe.
        FileNotFoundError: it was not made yet.
    """
    known = list(map(str, params.sets))
    if name not in known:
        raise ValueError(
            f"SET: received {name!r}{hint(name, known)}; allowed: {', '.join(known)}; change "
            "`methods.coresets`, `methods.distillers` or `budgets` of params.yaml, or --profile; "
            "of an imported set, pass on the file or folder that it came from"
        )
    set_name = SetName.parse(name)
    is_coreset = set_name.method in params.coresets
    work = steps.selection if is_coreset else steps.distillation
    own = part(work(params, set_name).folder)
    inputs = own.manifest.inputs
    # By the digests that the set has as inputs: another run may have replaced these artifacts
    parts = {
        "prepared": part(steps.preparation(params).folder, inputs["prepared"]),
        "embeddings": part(steps.embedding(params).folder, inputs["embeddings"]),
        "start": part(steps.start(params).folder, inputs["start"]),
    }
    _check_asked(params, set_name, {**parts, "own": own})
    students, in_words = _students(params, set_name, own), tuple[Part, ...]()
    # A coreset has sentences already
    if params.evaluate.decoded and not is_coreset:
        in_words = _students(params, replace(set_name, ending=DECODED), own)
    _check_one_recipe((*students, *in_words))
    return Source(
        set_name,
        params.report.dataset,
        is_coreset,
        load_pairs(own.folder),
        None if is_coreset else load_tensors(own.folder / INITIAL),
        own,
        parts["prepared"],
        parts["embeddings"],
        parts["start"],
        students,
        in_words,
        params.evaluate.small.__dict__,
    )


def _check_asked(params: Params, name: SetName, parts: dict[str, Part]) -> None:
    """Refuse a set that is not the one that the parameters ask for."""
    made = {item: Made.of(one.manifest) for item, one in parts.items()}
    found = differences_of_set(params, name, made)
    if found:
        told = "; ".join(f"{item.replace('own', str(name))}: {w}" for item, w in found.items())
        raise ValueError(
            f"SET: received {str(name)!r}, which was made otherwise than the parameters ask for "
            f"({told}); allowed is the set of the present parameters; run `vl-distillery pipeline` "
            "with them, or change params.yaml or --set to what made it"
        )


def part(folder: Path, digest: str | None = None) -> Part:
    """Return an artifact; with a digest, the one that a set was made from."""
    manifest = artifacts.verify(folder)
    if manifest is None:
        raise FileNotFoundError(
            f"{folder} is not there; exports and imports take what is made; `vl-distillery "
            "pipeline` makes it, `dvc pull` brings what others made"
        )
    if digest is not None and manifest.digest != digest:
        raise ValueError(
            f"{folder}: received the artifact {manifest.digest[:12]}; allowed is {digest[:12]}, of "
            "which the set was made; run `vl-distillery pipeline` with today's parameters again"
        )
    return Part(folder, manifest)


def _students(params: Params, set_name: SetName, own: Part) -> tuple[Part, ...]:
    """Return the scored students of a set, or of its decoded one; () where it was not scored."""
    folder = steps.evaluation(params, set_name).folder
    if not folder.exists():
        return ()
    found = tuple(part(folder / f"seed_{seed}") for seed in range(params.evaluate.num_eval))
    # Scores of an older set of this name may lie there
    for score in found:
        _check(score, score.manifest.inputs["pairs"] == own.manifest.digest)
    return found


def _check_one_recipe(found: tuple[Part, ...]) -> None:
    for score in found:
        _check(score, _how(score) == _how(found[0]))


def _check(score: Part, is_fit: bool) -> None:
    if not is_fit:
        raise ValueError(
            f"{score.folder}: received a score of another set or recipe; allowed are scores of "
            "this very set under one recipe; run `vl-distillery evaluate` again"
        )


def _how(score: Part) -> dict[str, Any]:
    # Students of one recipe differ in these two alone
    others = ("seed_idx", "decoded")
    return {name: value for name, value in score.manifest.params.items() if name not in others}


def _scores(students: tuple[Part, ...]) -> list[dict[str, Any]]:
    return [json.loads((part.folder / SCORE).read_text()) for part in students]
