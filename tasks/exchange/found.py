"""Imported sets that a profile names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.exchange.asked import FITS, WORDS, Made, differences
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.store import artifacts, manifests
from tasks.store.artifacts import Ref
from tasks.store.manifests import Manifest


def imported(params: Params, today: Mapping[str, str] | None = None) -> dict[str, Ref]:
    """Return the sets of `methods.imported`, by name.

    Args:
        today: digests of the artifacts that students are trained on and begin with, {name: digest};
            None where they are not known yet.

    Raises:
        ValueError: one was imported for other parameters or inputs.
        FileNotFoundError: one was not imported into this profile.
        DamagedArtifact: one does not verify.
    """
    found = {}
    for name in params.imported:
        folder = steps.imported(params, name)
        manifest = artifacts.verify(folder)
        if manifest is None:
            raise FileNotFoundError(
                f"methods.imported: received {str(name)!r}; {folder} is not there; run "
                f"`vl-distillery import PATH --as {name.method}`, or leave it out"
            )
        _check_asked(params, str(name), manifest)
        _check_fit(str(name), manifest.inputs, today or {})
        found[str(name)] = Ref(str(folder), manifest.digest, is_cached=True)
    return found


def without_words(found: Mapping[str, Ref]) -> dict[str, Ref]:
    """Return the imported sets with texts that are no sentences: decoding those says something.

    Raises:
        DamagedArtifact: a manifest does not say it.
    """
    kept = {}
    for name, ref in found.items():
        facts: Any = manifests.read(ref.folder, WORDS).facts
        if not facts[WORDS]:
            kept[name] = ref
    return kept


def _check_asked(params: Params, name: str, manifest: Manifest) -> None:
    """Refuse a set that was imported for other parameters, before anything is made."""
    facts: Any = manifest.facts
    # Sets that older versions imported do not say what they fit
    if FITS in facts and WORDS in facts:
        found = differences(params, {item: Made(**told) for item, told in facts[FITS].items()})
    else:
        found = {"versions": "it does not say what it fits"}
    if found:
        told = "; ".join(f"{item}: {words}" for item, words in found.items())
        raise ValueError(
            f"methods.imported: received {name!r}, imported for other {', '.join(found)} ({told}); "
            "allowed is a set for the present parameters; run `vl-distillery train_experts` and "
            "import it again with --replace, or leave it out with --set 'methods.imported=[]'"
        )


def _check_fit(name: str, inputs: Mapping[str, str], today: Mapping[str, str]) -> None:
    """Refuse a set that was imported beside other inputs than those of today."""
    others = [item for item, digest in today.items() if inputs[item] != digest]
    if others:
        raise ValueError(
            f"methods.imported: received {name!r}, imported for other {', '.join(others)}; allowed "
            "is a set for those of today; run `vl-distillery train_experts` and import it again "
            "with --replace, or leave it out with --set 'methods.imported=[]'"
        )
