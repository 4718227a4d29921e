"""Compares what was made with what the present parameters ask for, and names in words what differs.

An export and an imported set tell what was stored. They may have been made for other parameters
than params.yaml and `--set` hold; such a set is refused, with the parameter's name. Code is not
compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks import keys
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.stages import STAGES
from tasks.store import manifests, reasons
from tasks.store.artifacts import Key, Ref
from tasks.store.manifests import MANIFEST, Manifest

# Facts of the manifest of an imported set: what it fits, and whether its texts stand for sentences
FITS = "fits"
WORDS = "has_words"
FITTED = ("prepared", "embeddings", "start")  # what every set of a profile has to fit


@dataclass(frozen=True)
class Made:
    """What an artifact was made from, without the code.

    Attributes:
        digest: of its content.
    """

    digest: str
    params: dict[str, Any]
    inputs: dict[str, str]

    @classmethod
    def of(cls, manifest: Manifest) -> Made:
        """Return what a manifest says."""
        return cls(manifest.digest, manifest.params, manifest.inputs)


def differences(params: Params, made: Mapping[str, Made]) -> dict[str, str]:
    """Return what differs between `made` and what the parameters ask for: {name: words}.

    Raw data and weights that are not on this machine are not compared.

    Args:
        made: the artifacts named by `FITTED`.
    """
    prepared = Ref("", made["prepared"].digest)
    code = STAGES["train_experts"].code
    asked = {
        "prepared": keys.of_prepared(steps.preparation(params)),
        "embeddings": keys.of_embeddings(steps.embedding(params), prepared),
        "start": keys.of_start(steps.network(params), prepared, code),
    }
    found = {name: _changed(made[name], *asked[name]) for name in asked}
    return {name: words for name, words in found.items() if words}


def differences_of_set(params: Params, name: SetName, made: Mapping[str, Made]) -> dict[str, str]:
    """Return what differs for a set of the profile: the set itself, and what it was made from.

    An expert is compared where its artifact is on this machine. For a missing one the digest that
    the set was made from is taken.

    Args:
        made: as in `differences`, and the set under `own`.
    """
    own = made["own"]
    found = differences(params, made)
    # Keys need digests alone, so that these references have no path
    given = keys.Inputs(*(Ref("", made[item].digest) for item in FITTED))
    training = steps.training(params)
    is_coreset = name.method in params.coresets
    # A coreset reads the first expert alone
    numbers: Sequence[int] = (0,)
    if not is_coreset:
        numbers = steps.distillation(params, name).read(range(training.section.num_experts))
    for index in numbers:
        expert = f"expert_{index:03d}"
        if (training.folder / expert / MANIFEST).is_file():
            there = Made.of(manifests.read(training.folder / expert))
            if words := _changed(there, keys.of_expert(training, given, index)):
                found[expert] = words
    if is_coreset:
        shared = Ref("", own.inputs["shared"]) if "shared" in own.inputs else None
        warm = Ref("", own.inputs["warm"])
        key = keys.of_coreset(steps.selection(params, name), given, warm, shared)
    else:
        names = [f"expert_{index:03d}" for index in numbers]
        experts = [Ref("", own.inputs.get(expert, "none")) for expert in names]
        work = steps.distillation(params, name)
        # As the set knows it: whether there is one is compared
        earlier = Ref("", own.inputs.get(keys.BEGIN_WITH, "none")) if work.begins_with else None
        key = keys.of_distilled(work, given, experts, earlier)
    if words := _changed(own, key):
        found["own"] = words
    return found


def _changed(made: Made, key: Key, missing: keys.Missing = None) -> str | None:
    """Return what changed, as in the log of a run that makes an artifact again.

    Args:
        missing: why `key` lacks inputs; those are not compared then.
    """
    if missing is not None:
        key = replace(key, inputs={**made.inputs, **key.inputs})
    # A manifest with the key's own code, so that a change of code is no difference
    manifest = Manifest("", key.stage, made.params, made.inputs, key.code, files={})
    return reasons.changed(manifest, key) if reasons.changed_parts(manifest, key) else None
